"""`llx report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.errors import BadInput

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
    """Write a report of one or several result files. What fails on a regression is compare."""
    from llx.reports.changes import verdict_line
    from llx.reports.compare import beside, sides
    from llx.reports.console import say, show_results, warn
    from llx.reports.gates import GATES, read_gates
    from llx.reports.history import read_history, remember
    from llx.reports.page import write_page
    from llx.reports.report import write_report
    from llx.result import read_results

    if label and history is None:
        raise BadInput("--label is of a line in a history", "name its file with --history")
    gates = read_gates(gate) if gate else GATES
    if history and history.exists():
        read_history(history)  # before anything is written
    found: list[Result] = []
    before: list[Result] = []
    for i, path in enumerate(results):
        side = found if i == 0 or no_baseline else before
        side += [one for one in read_results(path) if one not in side]
    compared = beside(*sides(found, before), gates)
    show_results(found)
    if before:
        say("\nThe baseline:\n" if compared else "")
        show_results(before)
    if compared:
        say(f"\n{verdict_line(compared)}")
    elif before:
        warn(
            "nothing is compared: the first file and the others have no engine in common, or "
            "several results of one; --no-baseline shows them beside one another"
        )
    say(f"\nreport: {write_report(found, output, baseline=before, compared=compared)}")
    entries = []
    if history:
        lines = len(read_history(history)) if history.exists() else 0
        entries = remember(found, history, label)
        say(f"history: {history}, {len(entries)} lines, {len(entries) - lines} of them new")
    page = write_page(found, output, baseline=before, history=entries, gates=gates)
    say(f"page: {page}")
