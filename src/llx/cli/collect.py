"""`llx collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import ResultsFormat, command_line
from llx.cli.printed import printed


def collect(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A bundle's folder, with the out/ that came back in it."
        ),
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The artifact that it was written for. [default: the one under ./artifacts]",
            show_default=False,
        ),
    ] = None,
    output: ResultsFormat = None,
) -> None:
    """Make results of what a bundle measured on its device, once its out/ is home."""
    from llx.api.collect import collected
    from llx.reports.console import warn
    from llx.reports.formats import writer_named
    from llx.result import encode_results

    write = writer_named(output)
    results = collected(bundle, artifact, command_line())
    printed(write, results, encode_results)
    for error in results.errors:
        warn(f"{error.message}: {error.remedy}")
    raise typer.Exit(results.exit_code)
