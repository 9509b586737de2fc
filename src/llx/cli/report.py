"""`llx report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import GateFile
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
    gate: GateFile = None,
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
    from llx.reports.compare.changes import verdict_line
    from llx.reports.compare.gates import GATES, read_gates
    from llx.reports.compare.pairs import beside, sides
    from llx.reports.console import say, show_results, warn
    from llx.reports.history import read_history, remember
    from llx.reports.html.page import write_page
    from llx.reports.report import write_report

    if label and history is None:
        raise BadInput("--label is of a line in a history", "name its file with --history")
    gates = read_gates(gate) if gate else GATES
    # Whatever is no input of ours is found before anything is written.
    known = read_history(history) if history and history.exists() else []
    first, rest = _all_of(results[:1]), _all_of(results[1:])
    if no_baseline:
        first, rest = _all_of(results), []
    compared = beside(*sides(first, rest), gates)
    shown, baseline = (first, rest) if compared else ([*first, *rest], [])
    show_results(shown)
    if baseline:
        say("\nThe baseline:\n")
        show_results(baseline)
    if compared:
        say(f"\n{verdict_line(compared)}")
    elif rest:
        warn(
            "nothing is compared: the first file and the others have no engine in common, or "
            "several results of one; --no-baseline shows them beside one another"
        )
    say(f"\nreport: {write_report(shown, output, baseline=baseline, compared=compared)}")
    entries = []
    if history:
        entries = remember(first, history, label)
        say(f"history: {history}, {len(entries)} lines, {len(entries) - len(known)} of them new")
    page = write_page(shown, output, baseline=baseline, history=entries, gates=gates)
    say(f"page: {page}")


def _all_of(paths: Sequence[Path]) -> list[Result]:
    """The results of several files, each once."""
    from llx.result import read_results

    found: list[Result] = []
    for path in paths:
        found += [result for result in read_results(path) if result not in found]
    return found
