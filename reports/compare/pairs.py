"""Results compared with a baseline's: which with which, what changed, what else was different."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from llx.errors import BadInput
from llx.reports.compare.change import Change
from llx.reports.compare.gates import GATES, IN_PERCENT, Gate, Kind
from llx.reports.compare.judged import Verdict
from llx.reports.compare.past import AgainstPast, Past
from llx.reports.compare.verdicts import (
    MODEL,
    SCORE,
    Pair,
    lost_with,
    measurable,
    required_and_nowhere,
)
from llx.reports.measures import followed
from llx.reports.units import minute
from llx.result import Result

WORST_FIRST: tuple[Verdict, ...] = (
    "regressed",
    "inconclusive",
    "not comparable",
    "improved",
    "no change",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Something that was not the same."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Results against a baseline: every measure that both have, and what else is to be said.

    `unjudged`: models that are not the same and were not compared, to be read before any verdict.
    """

    unjudged: list[str]
    pairs: list[tuple[Result, Result]]
    changes: list[Change]
    settings: list[Setting]
    notes: list[str]  # what else is to be said: what is compared with nothing, which gate is idle

    def __repr__(self) -> str:
        """How many of what was compared got worse, in a line."""
        return (
            f"<llx.Compared: {len(self.pairs)} pairs of results, {len(self.changes)} measures, "
            f"{len(self.regressed)} regressed>"
        )

    @property
    def regressed(self) -> list[Change]:
        """What fails the comparison."""
        return [change for change in self.changes if change.fails]


def compare_results(
    baseline: Sequence[Result],
    results: Sequence[Result],
    gates: Sequence[Gate] = GATES,
    past: Past | None = None,
) -> Compared:
    """Compare results with a baseline's. Raises `BadInput` where nothing can be paired.

    `past`: what tells how far separate runs lie apart, where they were not measured in turns.
    """
    found = beside(results, baseline, gates, past)
    if found is None:
        raise BadInput(
            "nothing in the baseline can be held against the results",
            "compare files of the same engines, each with one result of an engine and artifact",
        )
    return found


def beside(
    results: Sequence[Result],
    baseline: Sequence[Result],
    gates: Sequence[Gate] = GATES,
    past: Past | None = None,
) -> Compared | None:
    """Results compared with a baseline's, or None where nothing can be paired."""
    pairs, lost, new = paired(baseline, results)
    if not pairs:
        return None
    measured = measurable([*baseline, *results]) if gates != GATES else {}
    _require_about_something(gates, measured)
    changes = [
        change for before, after in pairs for change in Pair(before, after, gates, past).changes()
    ]
    changes += [change for before in lost for change in lost_with(before, gates)]
    changes += required_and_nowhere(measured, gates)
    changes.sort(key=lambda change: WORST_FIRST.index(change.verdict))
    notes = [f"the baseline's {_named(one)} is compared with nothing" for one in lost]
    notes += [f"the results' {_named(one)} is compared with nothing" for one in new]
    notes += _undecided(changes)
    settings = [one for before, after in pairs for one in _settings(before, after)]
    return Compared(
        unjudged=[
            words
            for before, after in pairs
            if (words := _unjudged(before.artifact.sha256, after, changes, "the baseline"))
        ],
        pairs=pairs,
        changes=changes,
        settings=list(dict.fromkeys(settings)),
        notes=notes,
    )


def judged_by(
    results: Sequence[Result],
    baseline: Sequence[Result],
    gates: Sequence[Gate] = GATES,
    past: Past | None = None,
) -> Compared | None:
    """Results by what they can be held against: a baseline, what they took turns with, a history.

    None where there is nothing.
    """
    found = beside(*sides(results, baseline), gates, past)
    return against_past(results, past, gates) if found is None and past else found


def against_past(
    results: Sequence[Result], past: Past, gates: Sequence[Gate] = GATES
) -> Compared | None:
    """Results held against their branch's history, or None where it has none of their kind.

    Of several in turns the candidates are; baselines stood there for others.
    """
    judged = followed(results)
    if not any(past.courses(one) for one in judged):
        return None
    changes = [change for one in judged for change in AgainstPast(one, past, gates).changes()]
    if gates != GATES:
        measured = {*measurable(results), *((one.metric, one.kind, one.engine) for one in changes)}
        _require_about_something(gates, measured)
        changes += required_and_nowhere(measured, gates)
    changes.sort(key=lambda change: WORST_FIRST.index(change.verdict))
    notes = [
        f"the history has no {_named(one)} on this device"
        for one in judged
        if not past.courses(one)
    ]
    unjudged = []
    for one in judged:
        last = past.last(one)
        words = last and _unjudged(last.artifact_sha256, one, changes, "the history")
        unjudged += [words] if words else []
    return Compared(
        unjudged=unjudged, pairs=[], changes=changes, settings=[], notes=notes + _undecided(changes)
    )


def _undecided(changes: Sequence[Change]) -> list[str]:
    undecided = sum(change.apart and change.verdict == "inconclusive" for change in changes)
    if not undecided:
        return []
    return [f"{undecided} undecided in two runs apart: `llx bench --against` measures in turns"]


def _require_about_something(
    gates: Sequence[Gate], measured: Collection[tuple[str, Kind, str]]
) -> None:
    """Raise `BadInput` with the gates that are about nothing, but for those that may be.

    And with one that would hold what varies to a difference, which only the measures tell of a gate
    of no kind.
    """
    for gate in gates:
        for metric, kind, engine in measured if gate.by_difference else ():
            if kind != "deterministic" and gate.fits(metric, kind, engine):
                raise BadInput(
                    f"the gate {gate.metric!r} is about {metric}, a {kind}, which has {IN_PERCENT}",
                    'write one, or kind = "deterministic"',
                )
    idle = [
        gate
        for gate in gates
        if not (gate in GATES or gate.optional or gate.required)
        and not any(gate.fits(*one) for one in measured)
    ]
    if idle:
        named = "; ".join(
            f"{gate.metric!r}"
            + (f" of kind {gate.kind}" if gate.kind else "")
            + (f", engine {gate.engine!r}" if gate.engine != "*" else "")
            for gate in idle
        )
        raise BadInput(
            f"no measure of these results fits the gate {named}",
            "`llx compare --measures RESULTS` lists them; a gate that may be idle says "
            "optional = true",
        )


def _unjudged(before: str, after: Result, changes: Sequence[Change], whose: str) -> str | None:
    """That nothing says whether another model is a worse one, if so, and why.

    `before`: the hash of the artifact that was measured before.
    """
    if before == after.artifact.sha256:
        return None
    of = (after.engine, after.artifact.name)
    about = [
        one
        for one in changes
        if (one.engine, one.artifact) == of
        and one.metric.startswith((f"{MODEL}prefill", f"{MODEL}decode", SCORE))
    ]
    if any(one.verdict != "not comparable" and one.after is not None for one in about):
        return None
    why = next((one.why for one in about if one.why), None) or f"{whose} was not judged"
    return (
        f"{_named(after)} is another artifact than {whose}'s, and whether its model is worse "
        f"was not measured: {why}"
    )


def in_turns(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Baselines and candidates, where results were measured in turns; `BadInput` where none."""
    candidates = [result for result in results if result.against]
    turns = {result.turns for result in candidates}
    baselines = [one for one in results if one.turns in turns and not one.against]
    if not candidates or len(baselines) != len(candidates):
        raise BadInput(
            "this file holds no results that were measured in turns",
            "name a baseline's file too, or measure with `llx bench --against`",
        )
    return baselines, candidates


def sides(
    results: Sequence[Result], baseline: Sequence[Result] = ()
) -> tuple[list[Result], list[Result]]:
    """What is judged, and what it may be judged by: of two in turns the candidate is judged."""
    judged = followed(results)
    return judged, [one for one in results if one.turns and not one.against] + list(baseline)


def paired(
    baseline: Sequence[Result], results: Sequence[Result]
) -> tuple[list[tuple[Result, Result]], list[Result], list[Result]]:
    """Each result with the baseline's that is nearest to it; what is left of the two without one.

    Nearest: measured in turns with it; else of the same engine and artifact, by name; else of the
    same engine and precision; else of the same engine.
    """
    left, waiting = list(baseline), list(results)
    pairs: list[tuple[Result, Result]] = []
    keys: tuple[Callable[[Result], object], ...] = (
        lambda result: result.turns or id(result),
        lambda result: (result.engine, result.artifact.name),
        lambda result: (result.engine, result.precision),
        lambda result: result.engine,
    )
    for key in keys:
        for name in dict.fromkeys(map(key, waiting)):
            before, after = ([one for one in side if key(one) == name] for side in (left, waiting))
            # As many on both sides are paired in their order; else nobody knows which is which.
            if len(before) == len(after):
                pairs += zip(before, after, strict=True)
                left = [one for one in left if key(one) != name]
                waiting = [one for one in waiting if key(one) != name]
    pairs.sort(key=lambda pair: results.index(pair[1]))
    return pairs, left, waiting


def _named(result: Result) -> str:
    return f"{result.engine} with {result.artifact.name}"


def _settings(before: Result, after: Result) -> Iterator[Setting]:
    """What differs of two results beside their numbers."""
    old, new = _settings_of(before), _settings_of(after)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield Setting(name=name, before=old.get(name, "none"), after=new.get(name, "none"))


def _settings_of(result: Result) -> dict[str, str]:
    environment, artifact = result.environment, result.artifact
    found = {
        "measured": minute(result.created),
        "llx": result.llx,
        "engine": result.engine,
        "precision": result.precision,
        "dialect": result.dialect,
        "artifact": f"{artifact.name} {artifact.sha256[:12]}",
        "weights": artifact.weights,
        "quantization": artifact.quantization,
        "device": environment.device,
        "device fingerprint": environment.device_fingerprint,
        "os": environment.os,
        "python": environment.python,
        "threads": environment.threads,
        "power mode": environment.power_mode,
        **environment.versions,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
