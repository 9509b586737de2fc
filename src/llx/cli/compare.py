"""`llx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import GateFile
from llx.errors import EXIT_DONE, EXIT_GATE_FAILED


def compare(
    baseline: Annotated[Path, typer.Argument(help="Results before, of `llx bench -o json`.")],
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Results after. [default: the first file holds both, measured in turns]",
            show_default=False,
        ),
    ] = None,
    gate: GateFile = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="md, json, csv or junit. [default: table]"),
    ] = None,
    measures: Annotated[
        bool, typer.Option("--measures", help="List what a gate may be about, and compare nothing.")
    ] = False,
) -> None:
    """Compare results with a baseline's; exit 1 where something regressed."""
    from llx.api.compare import compare as compared
    from llx.api.results import Results
    from llx.reports.compare.changes import changes_writer, measures_table, show_changes
    from llx.reports.console import show
    from llx.streams import print_data

    if measures:
        show(measures_table(Results.read(*filter(None, (baseline, results)))))
        return

    write = changes_writer(output) if output else None
    after, before = (baseline, None) if results is None else (results, baseline)
    found = compared(after, before, gates=gate)
    if write:
        print_data(write(found))
    else:
        show_changes(found)
    raise typer.Exit(EXIT_GATE_FAILED if found.regressed else EXIT_DONE)
