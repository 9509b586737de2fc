"""`llx report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llx.result import Result


def report(
    results: Annotated[list[Path], typer.Argument(help="Files of `llx bench -o json`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
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
    from llx.reports.console import say, show_results
    from llx.reports.history import remember
    from llx.reports.page import write_page
    from llx.reports.report import write_report
    from llx.result import read_results

    found: list[Result] = []
    for path in results:
        found += [result for result in read_results(path) if result not in found]
    show_results(found)
    say(f"\nreport: {write_report(found, output)}")
    entries = remember(found, history, label) if history else []
    say(f"page: {write_page(found, output, entries)}")
