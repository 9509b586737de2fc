"""`llx report`: results as a page to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llx.files import make_folder, write_whole
from llx.reports.compare.changes import changes_markdown
from llx.reports.compare.courses import Step
from llx.reports.compare.pairs import Compared
from llx.reports.markdown import markdown_table, results_markdown, safe
from llx.reports.steps import HEADINGS, step_rows
from llx.result import Result

PAGE = "report.md"


def write_report(
    results: Sequence[Result],
    folder: Path,
    *,
    baseline: Sequence[Result] = (),
    compared: Compared | None = None,
    steps: Sequence[Step] = (),
) -> Path:
    """Write report.md into a folder, and return its path; what was compared stands first.

    `steps`: of the history that the results are part of.
    """
    make_folder(folder)
    names = ", ".join(dict.fromkeys(safe(result.artifact.name) for result in results))
    engines = ", ".join(dict.fromkeys(safe(result.engine) for result in results))
    parts = [f"# {names} on {engines}\n"]
    if compared:
        parts.append(changes_markdown(compared))
    parts.append(results_markdown(results))
    if baseline:
        parts.append(f"## Baseline\n\n{results_markdown(baseline)}")
    if steps:
        parts.append(f"## Steps in the history\n\n{markdown_table(HEADINGS, step_rows(steps))}")
    path = folder / PAGE
    write_whole(path, "\n".join(parts).encode())
    return path
