"""`llx.report`: results as files to read, `report.md` and a page of HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llx.api.compare import Gates, gates_of
from llx.api.results import Measured, results_of
from llx.api.watching import Tell, telling
from llx.arguments import door
from llx.errors import BadInput
from llx.reports.compare.courses import Step, courses_of, followed_steps
from llx.reports.compare.pairs import Compared, judged_by
from llx.reports.compare.past import Past
from llx.reports.history import read_history, remember, require_one_branch
from llx.reports.html.page import write_page
from llx.reports.report import write_report
from llx.result import Result


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written, and of what.

    `steps`: where the history's measures went to another level, the earliest first. `remembered`:
    entries of the history, `added` of them new; None where none is kept.
    """

    page: Path
    markdown: Path
    shown: list[Result]
    baseline: list[Result]
    compared: Compared | None
    steps: list[Step] = field(default_factory=list)
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
    branch: str = "",
    tell: Tell | None = None,
) -> Report:
    """Write a report into a folder: report.md, and index.html, which needs no network.

    Args:
        results: Results, or files of them.
        output: The folder.
        baseline: Earlier results of the same engines, or files: the report begins with a verdict.
        gates: What may get how much worse: a TOML file, or gates.
        history: A file that keeps a line of each result: they are added, drawn over time, and held
            against what it had before, where no baseline is named.
        label: What was measured, for the history: a commit.
        branch: Of which branch the history is; another's is refused.
        tell: Called with notices. None: the logger `llx`.

    Raises:
        BadInput: A file that holds no results, history or gates.
        Lacking: The packages that draw the plots are not installed; report.md is written.

    """
    for name, value in (("--label", label), ("--branch", branch)):
        if value and history is None:
            raise BadInput(f"{name} is of a line in a history", "name its file with --history")
    first, rest, meant = results_of(results), results_of(baseline), gates_of(gates)
    if not first:
        raise BadInput("there are no results to report", "measure some: llx.bench or `llx bench`")
    # Whatever is no input of ours is found before anything is written.
    kept = Path(history) if history is not None else None
    past = None
    if kept and kept.exists():
        entries = read_history(kept)
        require_one_branch(kept, [*(entry.branch for entry in entries), branch])
        past = Past(entries, [*first, *rest])
    compared = judged_by(first, rest, meant, past)
    paired = compared is not None and bool(compared.pairs)
    shown, before = (first, rest) if paired else ([*first, *rest], [])
    if rest and not paired:
        telling(tell)(
            "nothing is compared: the first file and the others have no engine in common, or "
            "several results of one; --no-baseline shows them beside one another"
        )
    folder = Path(output)
    remembered = remember(first, kept, label, telling(tell), branch) if kept else None
    lines = remembered.entries if remembered else []
    steps = followed_steps(courses_of(lines))
    markdown = write_report(shown, folder, baseline=before, compared=compared, steps=steps)
    return Report(
        page=write_page(
            shown,
            folder,
            baseline=before,
            history=lines,
            past=past.entries if past else [],
            gates=meant,
        ),
        markdown=markdown,
        shown=list(shown),
        baseline=list(before),
        compared=compared,
        steps=steps,
        remembered=len(lines) if remembered else None,
        added=remembered.added if remembered else None,
    )
