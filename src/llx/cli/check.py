"""`llx check`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import ArtifactFolder, names, optional


def check(
    folder: ArtifactFolder = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Engines by name, with commas. [default: all that are here and do not compile]",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option(help="Look at every op, and show the error of each layer.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="json|FILE", help="json, or a page to write: FILE.html."
        ),
    ] = None,
) -> None:
    """Check every byte and the graphs, compare with PyTorch, and find the cause of what is off."""
    from llx.api.check import findings
    from llx.reports.checks import reporting

    with reporting(output, verbose) as (record, say):
        for line in findings(
            folder,
            engines=optional(names, engine),
            verbose=verbose or output is not None,
            record=record,
        ):
            say(line)
