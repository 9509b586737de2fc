"""`llx.report`: results as files to read, `report.md` and a page of HTML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llx.api.compare import Gates, gates_of
from llx.api.results import Measured, results_of
from llx.api.watching import Tell, telling
from llx.arguments import door
from llx.errors import BadInput
from llx.reports.compare.pairs import Compared, beside, sides
from llx.reports.history import read_history, remember
from llx.reports.html.page import write_page
from llx.reports.report import write_report
from llx.result import Result


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written, and of what.

    `remembered`: entries of the history, `added` of them new; None where none is kept.
    """

    page: Path
    markdown: Path
    shown: list[Result]
    baseline: list[Result]
    compared: Compared | None
    remembered: int | None = None
    added: int | None = None

    def __repr__(self) -> str:
        """What was written, in a line."""
        return f"<llx.Report: {len(self.shown)} results, in {self.page.parent}>"


@door
def report(
    results: Measured,
    output: str | Path,
    *,
    baseline: Measured = (),
    gates: Gates = None,
    history: str | Path | None = None,
    label: str = "",
    tell: Tell | None = None,
) -> Report:
    """Write a report into a folder: report.md, and index.html, which needs no network.

    Args:
        results: Results, or files of them.
        output: The folder.
        baseline: Earlier results of the same engines, or files: the report begins with a verdict.
        gates: What may get how much worse: a TOML file, or gates.
        history: A file that keeps a line of each result: they are added, and drawn over time.
        label: What was measured, for the history: a commit.
        tell: Called with notices. None: the logger `llx`.

    Raises:
        BadInput: A file that holds no results, history or gates.
        Lacking: The packages that draw the plots are not installed; report.md is written.

    """
    if label and history is None:
        raise BadInput("--label is of a line in a history", "name its file with --history")
    first, rest, meant = results_of(results), results_of(baseline), gates_of(gates)
    if not first:
        raise BadInput("there are no results to report", "measure some: llx.bench or `llx bench`")
    # Whatever is no input of ours is found before anything is written.
    kept = Path(history) if history is not None else None
    if kept and kept.exists():
        read_history(kept)
    compared = beside(*sides(first, rest), meant)
    shown, before = (first, rest) if compared else ([*first, *rest], [])
    if rest and not compared:
        telling(tell)(
            "nothing is compared: the first file and the others have no engine in common, or "
            "several results of one; --no-baseline shows them beside one another"
        )
    folder = Path(output)
    markdown = write_report(shown, folder, baseline=before, compared=compared)
    past = remember(first, kept, label, telling(tell)) if kept else None
    return Report(
        page=write_page(
            shown, folder, baseline=before, history=past.entries if past else [], gates=meant
        ),
        markdown=markdown,
        shown=list(shown),
        baseline=list(before),
        compared=compared,
        remembered=len(past.entries) if past else None,
        added=past.added if past else None,
    )
