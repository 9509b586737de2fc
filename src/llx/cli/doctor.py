"""`llx doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Of --bundle. [default: llx-doctor.json]", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        bool,
        typer.Option(
            help="Write a file for a bug report: what is shown here, versions, the machine, the "
            "last artifact's manifest. Without secrets, names and paths: read it all the same."
        ),
    ] = False,
) -> None:
    """Say what this machine has, what it lacks, and what would install it."""
    from llx.api.bugreport import READ_IT, write_bundle
    from llx.api.doctor import states
    from llx.errors import BadInput
    from llx.reports.console import say, show, simple_table

    if not bundle:
        if file is not None:
            raise BadInput(f"{file} is a file of --bundle", "add --bundle, or leave it out")
        show(simple_table("", ("part", "state"), states()))
        return
    written = write_bundle(states, file)
    say(f"{written.path}: a bundle for a bug report; {READ_IT}")
    for line in written.contents:
        say(f"  {line}")
