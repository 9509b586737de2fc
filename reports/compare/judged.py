"""How two numbers are judged: as speeds, as what does not vary, as perplexities, by a limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llx.reports.compare.gates import Gate, Kind
from llx.reports.levels import Spread
from llx.reports.measures import DECIDING, NORMAL_95, OF_TASK, PROTOCOL
from llx.reports.units import significant
from llx.result import Fidelity, PhaseFidelity, SpeedRow
from llx.scores import Metric, Scores, TaskScore
from llx.statistics import Comparison, compare, paired_ratio, verdict

Verdict = Literal["regressed", "improved", "no change", "inconclusive", "not comparable"]
OF_SPEED: dict[str, Verdict] = {
    "slower": "regressed",
    "faster": "improved",
    "no change": "no change",
    "inconclusive": "inconclusive",
}
SLOWEST, FASTEST = 1e-9, 1e15  # tok/s: what is beyond was measured by nobody


@dataclass(frozen=True)
class Judged:
    """A verdict, what it rests on, and by how much something changed where that is known."""

    verdict: Verdict
    why: str
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    threshold: float | None = None
    apart: bool = False

    @classmethod
    def of(cls, said: str, why: str, found: Comparison, threshold: float | None = None) -> Judged:
        """What was said of a comparison of speeds."""
        return cls(OF_SPEED[said], why, found.ratio, (found.low, found.high), threshold)

    @classmethod
    def of_two_runs(cls, found: Comparison, gate: Gate, kind: Kind) -> Judged:
        """What two runs that were not in turns say: nothing within what any two may differ by."""
        noise = gate.noise_apart(kind)
        said = verdict(found, noise, gate.share)
        threshold = max(noise, gate.share)
        factor = f"a factor of {1 + threshold:g}"
        if said == "no change":
            why = "in two runs"
        elif said == "inconclusive":
            why = f"in two runs, not beyond {factor}"
        else:
            why = f"in two runs, by more than {factor}"
        return cls.of(said, why, found, threshold)


Judge = Callable[[Gate], Judged]
"""Judges a change by the gate that is about it."""


def always(judged: Judged) -> Judge:
    """A judge whom no gate impresses."""
    return lambda gate: judged


def by_gate(before: float, after: float, gate: Gate, more_is_better: bool) -> tuple[Verdict, str]:
    """Whether a number that does not vary became worse by more than matters."""
    better = 1 if more_is_better else -1
    if gate.threshold is None:
        return "no change", ""
    relative = isinstance(gate.threshold, str)
    allowed = gate.share * abs(before) if relative else float(gate.threshold)
    if abs(after - before) <= max(allowed, gate.negligible):
        return "no change", ""
    improved = better * (after - before) > 0
    threshold = str(gate.threshold).replace("%", " %")
    return ("improved" if improved else "regressed"), f"by more than {threshold}"


def perplexity(before: PhaseFidelity, after: PhaseFidelity, gate: Gate) -> Judged:
    """Whether the model became worse, token by token where both have kept what each one cost.

    The tokens are the same, and so is what is hard about them: the interval of the ratio is that of
    the differences (paired Student's t), far narrower than that of either perplexity.
    """
    said, why = by_gate(before.ppl, after.ppl, gate, False)
    if not before.nll or len(before.nll) != len(after.nll):
        return Judged(said, why, after.ppl / before.ppl if before.ppl else None)
    found = paired_ratio(np.array(before.nll), np.array(after.nll))
    ends = found.low, found.high
    if said in ("regressed", "improved") and found.low <= 1 <= found.high:
        return Judged("inconclusive", "too few tokens to tell", found.ratio, ends)
    return Judged(said, why, found.ratio, ends)


def score(before: Metric, after: Metric, gate: Gate) -> Judged:
    """Whether a task's score became worse by more than matters, and than chance.

    The documents are the same; the standard errors of each score are of those documents, so that
    of the difference, as of two samples, is somewhat too large: what regresses has.
    """
    half = None
    if before.stderr is not None and after.stderr is not None:
        half = NORMAL_95 * math.hypot(before.stderr, after.stderr)
    return by_chance(before.value, after.value, half, gate, bool(before.higher_is_better))


def by_chance(
    before: float, after: float, half: float | None, gate: Gate, more_is_better: bool
) -> Judged:
    """A number of some documents: what chance may do, `half` to either side, is no verdict."""
    said, why = by_gate(before, after, gate, more_is_better)
    ratio = after / before if before else None
    if said != "no change" and half is not None and abs(after - before) <= half:
        return Judged("inconclusive", f"too few documents to tell: ±{significant(half, 2)}", ratio)
    return Judged(said, why, ratio)


def other_scoring(before: Scores, task: TaskScore, after: Scores, other: TaskScore) -> str | None:
    """Why two scores are not of the same documents, asked in the same way, if they are not."""
    unlike = [
        name.replace("_", " ")
        for name in DECIDING
        if getattr(before.settings, name) != getattr(after.settings, name)
    ]
    unlike += [name for name in OF_TASK if getattr(task, name) != getattr(other, name)]
    return f"scored otherwise: another {', '.join(unlike)}" if unlike else None


def apart_from_none(none: float, after: float, more_is_better: bool, gate: Gate) -> Judged:
    """A distance from the baseline: no fault by itself, and one beyond what a gate allows."""
    if gate.by_difference:
        return Judged(*by_gate(none, after, gate, more_is_better))
    return Judged("no change", "of the baseline's own distributions")


def within_limit(
    judged: Judged,
    gate: Gate | None,
    after: float | None,
    more_is_better: bool,
    invalid: str | None,
) -> Judged:
    """What was judged, unless a number that may be published is beyond the gate's limit."""
    if gate is None or gate.limit is None or after is None or invalid:
        return judged
    if not (after >= gate.limit if more_is_better else after <= gate.limit):  # NaN is neither
        return replace(judged, verdict="regressed", why=f"beyond the limit of {gate.limit:g}")
    if gate.threshold is None:
        return replace(judged, verdict="no change", why=f"within the limit of {gate.limit:g}")
    return judged


def invalid_row(row: SpeedRow | None) -> str | None:
    """Why a row decides nothing, if it is there and does not."""
    if row is None:
        return None
    if wrong := _invalid_numbers(row):
        return wrong
    return None if row.valid else f"INVALID: {row.invalid_reason or 'no reason is given'}"


def _invalid_numbers(row: SpeedRow) -> str | None:
    if all(SLOWEST <= speed <= FASTEST for speed in (row.mean, *row.samples)):  # NaN is not
        return None
    return "INVALID: its numbers are no speeds"


def in_two_runs(row: SpeedRow, now: SpeedRow, spread: Spread | None = None) -> Judge:
    """By two sets of samples that were taken apart: only what no two runs show says something.

    `spread`: how far a history has such runs apart, which counts unless the gate says it.
    """
    if invalid := _invalid_numbers(row) or _invalid_numbers(now):
        return always(Judged("inconclusive", invalid))
    found = in_two_runs_compared(row, now)
    if found is None:
        return always(Judged("inconclusive", "a single repetition has no interval"))
    return by_spread(spread, found, 1)


def by_spread(spread: Spread | None, found: Comparison, before: int) -> Judge:
    """By how far runs lie apart in a history, of which so many were before; else as of any two."""

    def judged(gate: Gate) -> Judged:
        if spread is None or gate.apart:
            return replace(Judged.of_two_runs(found, gate, "wall clock"), apart=True)
        said, of_runs = spread.judge(found.ratio, before, gate.share)
        noise = spread.noise(before)
        why = f"in a history of {spread.runs} runs, noise ±{100 * noise:.1f} %"
        return replace(Judged.of(said, why, of_runs, max(noise, gate.share)), apart=True)

    return judged


def in_two_runs_compared(row: SpeedRow, now: SpeedRow) -> Comparison | None:
    """Two sets of samples, where they are speeds and enough of them."""
    if _invalid_numbers(row) or _invalid_numbers(now):
        return None
    if min(len(row.samples), len(now.samples)) < 2:
        return None
    return compare(np.array(row.samples), np.array(now.samples), paired=False)


def other_protocol(before: Fidelity, after: Fidelity | None) -> str | None:
    """Why two fidelities are not of the same tokens, if they are not."""
    if after is None:
        return None
    other = [
        {"corpus_sha256": "text", "scored": "overlap"}.get(name, name)
        for name in PROTOCOL
        if getattr(before, name) != getattr(after, name)
    ]
    hashes = {one.tokens_sha256 for one in (before, after)} - {None}
    if not other and (len(hashes) > 1 or before.tokens != after.tokens):
        return "judged on other tokens: another tokenizer"
    return f"judged on other tokens: another {', '.join(other)}" if other else None
