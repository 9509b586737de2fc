"""What the page says before any number: what is wrong, what changed, what is doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llx.reports.compare.change import Change
from llx.reports.compare.changes import moved, ratio_of, verdict_line, why_of
from llx.reports.compare.pairs import Compared
from llx.reports.html.runs import Run
from llx.reports.html.tables import KINDS
from llx.reports.notes import shown_test
from llx.result import FIDELITY, Result

NAMED_AT_MOST = 4  # runs that share a remark
CHANGES_AT_MOST = 12


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something to know before any number: a word that sums it up, of whom, and what."""

    kind: str  # bad, warn, good, plain
    word: str
    who: str
    text: str


def remarks_on(
    models: Sequence[tuple[str, Sequence[Run]]], compared: Compared | None = None
) -> list[Remark]:
    """What was found wrong, what changed, and what is doubtful: the worst first, each once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, runs in models:
        for run in runs:
            prefix = f"{name}, " if len(models) > 1 else ""
            for kind, word, test, text in _said(run.result):
                of = f"{prefix}{run.label}" + (f", {test}" if test else "")
                found.setdefault((kind, word, text), []).append(of)
    remarks = [
        Remark(kind="warn", word="NOT COMPARED", who="the model", text=words)
        for words in (compared.unjudged if compared else ())
    ]
    remarks += _changed(compared.changes) if compared else ()
    remarks += [
        Remark(kind=kind, word=word, who=named(who), text=text)
        for (kind, word, text), who in found.items()
    ]
    order = ("bad", "warn", "good", "plain")
    return sorted(remarks, key=lambda remark: order.index(remark.kind))


def _said(result: Result) -> Iterator[tuple[str, str, str, str]]:
    """Of one result: kind, word, test, text."""
    for row in result.speed:
        if not row.valid:
            yield "bad", "INVALID", shown_test(row.test, row.batch), row.invalid_reason or ""
    if result.error:
        yield "bad", "NO NUMBERS", "", f"{result.error.message}: {result.error.remedy}"
    for failed in result.failed:
        yield "bad", "FAILED", failed.test, f"{failed.error.message}: {failed.error.remedy}"
    if result.interrupted:
        yield "warn", "INTERRUPTED", "", "some of what was asked for is missing"
    for note in result.environment.notes:
        yield "warn", "DOUBTFUL", "", note
    if result.unjudged and not any(failed.test == FIDELITY for failed in result.failed):
        yield "plain", "NOT JUDGED", "", result.unjudged


def named(runs: Sequence[str]) -> str:
    """The first of several runs, and how many more there are."""
    more = len(runs) - NAMED_AT_MOST
    return "; ".join(runs[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _changed(changes: Sequence[Change]) -> Iterator[Remark]:
    """What changed, the worst first, and what cannot be said, each reason once."""
    told = [change for change in changes if change.verdict in ("regressed", "improved")]
    for change in told[:CHANGES_AT_MOST]:
        yield Remark(
            kind="warn" if change.ungated else KINDS[change.verdict],
            word=change.verdict.upper(),
            who=_measure(change),
            text="; ".join(filter(None, (moved(change), ratio_of(change), why_of(change)))),
        )
    if len(told) > CHANGES_AT_MOST:
        more = f"{len(told) - CHANGES_AT_MOST} more, in the table below"
        yield Remark(kind="plain", word="AND MORE", who=more, text="")
    unsaid: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        if change.verdict in ("inconclusive", "not comparable"):
            unsaid.setdefault((change.verdict, change.why), []).append(_measure(change))
    for (verdict, why), measures in unsaid.items():
        yield Remark(kind=KINDS[verdict], word=verdict.upper(), who=named(measures), text=why)


def _measure(change: Change) -> str:
    return f"{change.engine} {change.precision}, {change.metric}"


def worst_kind(remarks: Sequence[Remark]) -> str:
    """What the verdict as a whole is: bad, doubtful or good."""
    kinds = {remark.kind for remark in remarks}
    return "bad" if "bad" in kinds else "warn" if "warn" in kinds else "good"


def summary(results: Sequence[Result], compared: Compared | None = None) -> str:
    """The verdict in a line."""
    rows = [row for result in results for row in result.speed]
    invalid = sum(not row.valid for row in rows)
    said = []
    if rows:
        whole = "The only row is valid" if len(rows) == 1 else f"All {len(rows)} rows are valid"
        are = "is" if invalid == 1 else "are"
        said.append(f"{invalid} of {len(rows)} rows {are} INVALID" if invalid else whole)
    without = list(dict.fromkeys(result.engine for result in results if result.error))
    if without:
        said.append(f"no numbers from {', '.join(without)}")
    failed = sum(len(result.failed) for result in results)
    if failed:
        said.append(f"{failed} failed")
    tasks = {task.task for result in results if result.scores for task in result.scores.tasks}
    if tasks:
        said.append("1 task was scored" if len(tasks) == 1 else f"{len(tasks)} tasks were scored")
    whole = "; ".join(said) + "." if said else "There are no rows."
    return f"{verdict_line(compared)}. {whole}" if compared else whole
