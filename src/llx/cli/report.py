"""`llx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[list[Path], typer.Argument(help="Files of `llx bench -o json`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
) -> None:
    """Write a report of one or several result files."""
    from llx.reports.console import result_table, say, show
    from llx.reports.report import write_report
    from llx.result import read_results

    found = [result for path in results for result in read_results(path)]
    show(result_table(found))
    say(f"\nreport: {write_report(found, output)}")
