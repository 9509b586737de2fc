"""`llx report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llx.result import Result


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Files of `llx bench -o json`. The first is held against the others' results of "
            "the same engines, if there are any: they are its baseline."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    gate: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file that says what may get how much worse. [default: as in the README]",
            show_default=False,
        ),
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Show all files, and compare none.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(
            help="A file that keeps a line of each result: they are added, and all are drawn over "
            "time.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(help="What was measured, for the history: a commit.", show_default=False)
    ] = "",
) -> None:
    """Write a report of one or several result files."""
    from llx.reports.changes import verdict_line
    from llx.reports.compare import beside, sides
    from llx.reports.console import say, show_results
    from llx.reports.gates import GATES, read_gates
    from llx.reports.history import remember
    from llx.reports.page import write_page
    from llx.reports.report import write_report
    from llx.result import read_results

    gates = read_gates(gate) if gate else GATES
    found: list[Result] = []
    before: list[Result] = []
    for path in results:
        side = before if found and not no_baseline else found
        side += [one for one in read_results(path) if one not in found and one not in before]
    compared = beside(*sides(found, before), gates)
    show_results([*found, *before])
    if compared:
        say(f"\n{verdict_line(compared)}")
    say(f"\nreport: {write_report([*found, *before], output, compared)}")
    followed = found if compared else [*found, *before]
    entries = remember(followed, history, label) if history else []
    page = write_page(found, output, baseline=before, history=entries, gates=gates)
    say(f"page: {page}")
