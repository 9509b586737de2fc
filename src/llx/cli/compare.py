"""`llx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import Baseline, GateFile
from llx.errors import EXIT_DONE, EXIT_GATE_FAILED, BadInput


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BASELINE] RESULTS",
            help="Files of `llx bench -o json` or `llx eval -o json`: what was before, and what is "
            "judged. One alone holds both, measured in turns, or is held against --baseline or "
            "--history.",
        ),
    ],
    baseline: Baseline = None,
    gate: GateFile = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The branch's history, which `llx report` keeps: it tells how far separate runs "
            "lie apart. Without a baseline it is what RESULTS are held against.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="md, json, csv, junit, or github for annotations of a workflow. [default: table]",
        ),
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
        show(measures_table(Results.read(*files, *(baseline or ()))))
        return
    if len(files) > 2 and not baseline:
        raise BadInput(
            f"{len(files)} files, and nothing says which is the baseline",
            "name it: --baseline FILE",
        )
    if len(files) == 2 and not baseline:
        baseline, files = files[:1], files[1:]

    write = changes_writer(output) if output else None
    found = compared(files, baseline, gates=gate, history=history)
    if write:
        print_data(write(found))
    else:
        show_changes(found)
    raise typer.Exit(EXIT_GATE_FAILED if found.regressed else EXIT_DONE)
