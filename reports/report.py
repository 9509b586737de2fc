"""`llx report`: results as a page to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llx.files import make_folder, write_whole
from llx.reports.compare.changes import changes_markdown
from llx.reports.compare.pairs import Compared
from llx.reports.markdown import results_markdown, safe
from llx.result import Result

PAGE = "report.md"


def write_report(
    results: Sequence[Result],
    folder: Path,
    *,
    baseline: Sequence[Result] = (),
    compared: Compared | None = None,
) -> Path:
    """Write report.md into a folder, and return its path; what was compared stands first."""
    make_folder(folder)
    names = ", ".join(dict.fromkeys(safe(result.artifact.name) for result in results))
    engines = ", ".join(dict.fromkeys(safe(result.engine) for result in results))
    parts = [f"# {names} on {engines}\n"]
    if compared:
        parts.append(changes_markdown(compared))
    parts.append(results_markdown(results))
    if baseline:
        parts.append(f"## Baseline\n\n{results_markdown(baseline)}")
    path = folder / PAGE
    write_whole(path, "\n".join(parts).encode())
    return path
