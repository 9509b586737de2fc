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
) -> None:
    """Write a report of one or several result files."""
    from llx.reports.console import say, show_results
    from llx.reports.page import write_page
    from llx.reports.report import write_report
    from llx.result import read_results

    found: list[Result] = []
    for path in results:
        found += [result for result in read_results(path) if result not in found]
    show_results(found)
    say(f"\nreport: {write_report(found, output)}")
    say(f"page: {write_page(found, output)}")
