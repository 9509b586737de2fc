"""Results compared with a baseline's, measure by measure, each with a verdict.

Three kinds of measure, as METRICS has it: those that are the same on any machine, shares of the
roofline, which may be held against another machine's, and wall clocks, which may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llx.errors import EXIT_BUG, BadInput
from llx.reports.gates import GATES, Gate, Kind, share_of
from llx.result import FIDELITY, Fidelity, PhaseFidelity, Result, SpeedRow
from llx.statistics import Comparison, compare, verdict

Verdict = Literal["regressed", "improved", "no change", "inconclusive", "not comparable"]
VERDICTS: tuple[Verdict, ...] = (
    "regressed",
    "inconclusive",
    "not comparable",
    "improved",
    "no change",
)
OF_SPEEDS: dict[str, Verdict] = {"slower": "regressed", "faster": "improved"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measure of one engine and artifact, before and after.

    `ratio`: after by before, with its 95 % interval where it has one. `gated`: whether a gate fits
    it: a regression that no gate fits fails nothing. `why`: what the verdict rests on, in words.
    """

    engine: str
    artifact: str
    metric: str
    kind: Kind
    unit: str
    before: float | None
    after: float | None
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    verdict: Verdict
    gated: bool = True
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Something that was not the same."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Results against a baseline: every measure that both have, and what else is to be said."""

    changes: list[Change]
    settings: list[Setting]
    alone: list[str]  # what only one of them has, in words

    @property
    def regressed(self) -> list[Change]:
        """What fails the comparison."""
        return [one for one in self.changes if one.gated and one.verdict == "regressed"]


def compare_results(
    baseline: Sequence[Result], results: Sequence[Result], gates: Sequence[Gate] = GATES
) -> Compared:
    """Compare results with a baseline's. Raises `BadInput` where nothing can be paired."""
    pairs, alone = paired(baseline, results)
    if not pairs:
        raise BadInput(
            "nothing in the baseline is of an engine that the results are of",
            "compare files of the same engines",
        )
    changes = [
        change
        for before, after in pairs
        for change in (*_speeds(before, after, gates), *_deterministic(before, after, gates))
    ]
    changes.sort(key=lambda change: VERDICTS.index(change.verdict))
    settings = [one for before, after in pairs for one in _settings(before, after)]
    return Compared(changes=changes, settings=list(dict.fromkeys(settings)), alone=alone)


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


def paired(
    baseline: Sequence[Result], results: Sequence[Result]
) -> tuple[list[tuple[Result, Result]], list[str]]:
    """Each result with the baseline's that is nearest to it, and what is left over, in words.

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
        for after in list(waiting):
            before = [one for one in left if key(one) == key(after)]
            if len(before) == 1:
                pairs.append((before[0], after))
                left.remove(before[0])
                waiting.remove(after)
    alone = [f"only the baseline has {_named(one)}" for one in left]
    alone += [f"only the results have {_named(one)}" for one in waiting]
    pairs.sort(key=lambda pair: results.index(pair[1]))
    return pairs, alone


def _named(result: Result) -> str:
    return f"{result.engine} with {result.artifact.name}"


def _speeds(before: Result, after: Result, gates: Sequence[Gate]) -> Iterator[Change]:
    """Every test that the baseline has; and where clocks differ, its share of the roofline."""
    rows = {(row.test, row.batch): row for row in after.speed}
    same = before.environment.device_fingerprint == after.environment.device_fingerprint
    for row in before.speed:
        now = rows.get((row.test, row.batch))
        name, gate = row.name, _gate(gates, row.name, "wall clock", after.engine)
        if now is None:
            yield _lost(before, after, row, name, gate)
            continue
        yield _wall_clock(before, after, row, now, name, gate)
        if not same and row.roofline_probe and now.roofline_probe:
            yield _roofline(before, after, row, now, name, gates)


def _lost(before: Result, after: Result, row: SpeedRow, name: str, gate: Gate | None) -> Change:
    """A test that has no numbers any more: a crash is a regression, all else is said."""
    errors = [one.error for one in after.failed if one.test == row.name]
    error = errors[0] if errors else after.error
    return Change(
        engine=after.engine,
        artifact=after.artifact.name,
        metric=name,
        kind="wall clock",
        unit=row.unit,
        before=row.mean,
        after=None,
        verdict="regressed" if error and error.exit_code == EXIT_BUG else "not comparable",
        gated=gate is not None,
        why=error.message if error else "it was not measured",
    )


def _wall_clock(
    before: Result, after: Result, row: SpeedRow, now: SpeedRow, name: str, gate: Gate | None
) -> Change:
    found, known, why = _speed_verdict(before, after, row, now, gate)
    return Change(
        engine=after.engine,
        artifact=after.artifact.name,
        metric=name,
        kind="wall clock",
        unit=row.unit,
        before=row.mean,
        after=now.mean,
        ratio=found.ratio if found else None,
        ci95=(found.low, found.high) if found else None,
        verdict=known,
        gated=gate is not None,
        why=why,
    )


def _speed_verdict(
    before: Result, after: Result, row: SpeedRow, now: SpeedRow, gate: Gate | None
) -> tuple[Comparison | None, Verdict, str]:
    """How two rows of speed compare, the verdict, and what it rests on."""
    if before.environment.device_fingerprint != after.environment.device_fingerprint:
        return None, "not comparable", "another device, or another setting of it"
    invalid = [one.invalid_reason for one in (row, now) if not one.valid]
    threshold = share_of(str(gate.threshold)) if gate else share_of("5%")
    apart = share_of(gate.apart or str(gate.threshold)) if gate else share_of("20%")
    if after.against and after.turns == before.turns:
        key = now.test, now.batch
        for test in (one for one in after.against.tests if (one.test, one.batch) == key):
            found = Comparison(ratio=test.ratio, low=test.ci95[0], high=test.ci95[1], method="")
            if invalid:
                return found, "inconclusive", f"INVALID: {invalid[0]}"
            said = verdict(found, test.noise, threshold)
            return found, OF_SPEEDS.get(said) or _same(said), f"in turns, noise ±{test.noise:.1%}"
    if min(len(row.samples), len(now.samples)) < 2:
        return None, "inconclusive", "a single repetition has no interval"
    found = compare(np.array(row.samples), np.array(now.samples), paired=False)
    if invalid:
        return found, "inconclusive", f"INVALID: {invalid[0]}"
    said = verdict(found, 0.0, apart)
    if said in OF_SPEEDS:
        return found, OF_SPEEDS[said], f"in two runs, by more than {apart:.0%}"
    if verdict(found, 0.0, threshold) == "no change":
        return found, "no change", "in two runs"
    return found, "inconclusive", "in two runs: measure in turns, with --against"


def _same(said: str) -> Verdict:
    return "no change" if said == "no change" else "inconclusive"


def _roofline(
    before: Result,
    after: Result,
    row: SpeedRow,
    now: SpeedRow,
    name: str,
    gates: Sequence[Gate],
) -> Change:
    """Shares of what each machine could do. The probes' own spread is the noise."""
    gate = _gate(gates, name, "roofline share", after.engine)
    share, share_now = row.roofline_probe or 0.0, now.roofline_probe or 0.0
    spreads = [
        one.ceiling.read_highest / one.ceiling.read_bytes_per_s - 1
        for one in (before, after)
        if one.ceiling
    ]
    noise, threshold = max(spreads, default=0.0), share_of(str(gate.threshold) if gate else "10%")
    found = Comparison(
        ratio=share_now / share,
        low=share_now / share / (1 + noise),
        high=share_now / share * (1 + noise),
        method="the probes' spread",
    )
    said = verdict(found, noise, threshold)
    valid = row.valid and now.valid
    return Change(
        engine=after.engine,
        artifact=after.artifact.name,
        metric=f"{name} of the roofline",
        kind="roofline share",
        unit="%",
        before=100 * share,
        after=100 * share_now,
        ratio=found.ratio,
        ci95=(found.low, found.high),
        verdict=(OF_SPEEDS.get(said) or _same(said)) if valid else "inconclusive",
        gated=gate is not None,
        why=f"probes vary by {noise:.0%}" if valid else "INVALID",
    )


@dataclass(frozen=True)
class _Measure:
    """Something that is the same wherever it is measured. `better`: +1 where more is better."""

    name: str
    unit: str
    better: Literal[1, -1]
    of: Callable[[Result], float | None]
    usual: Gate  # what counts as a change where no gate fits
    of_fidelity: bool = False


def _deterministic(before: Result, after: Result, gates: Sequence[Gate]) -> Iterator[Change]:
    """Fidelity on the same tokens, and bytes: all that the baseline has."""
    unlike = _other_protocol(before.fidelity, after.fidelity)
    for measure in (*MEASURES, *_step_bytes(before)):
        value, now = measure.of(before), measure.of(after)
        if value is None:
            continue
        gate = _gate(gates, measure.name, "deterministic", after.engine)
        if now is None:
            known, why = _gone(after, measure)
        elif measure.of_fidelity and unlike:
            known, why = "not comparable", unlike
        else:
            known, why = _verdict(value, now, measure.better, gate or measure.usual)
        yield Change(
            engine=after.engine,
            artifact=after.artifact.name,
            metric=measure.name,
            kind="deterministic",
            unit=measure.unit,
            before=value,
            after=now,
            ratio=now / value if now is not None and value else None,
            verdict=known,
            gated=gate is not None,
            why=why,
        )


def _verdict(value: float, now: float, better: int, gate: Gate) -> tuple[Verdict, str]:
    """Whether a number that does not vary became worse by more than matters."""
    if gate.limit is not None and better * (now - gate.limit) < 0:
        return "regressed", f"beyond the limit of {gate.limit:g}"
    matters = gate.threshold
    allowed = share_of(matters) * abs(value) if isinstance(matters, str) else matters
    if abs(now - value) <= max(allowed, gate.negligible):
        return "no change", ""
    return ("improved" if better * (now - value) > 0 else "regressed"), f"by more than {matters}"


def _gone(after: Result, measure: _Measure) -> tuple[Verdict, str]:
    """What the baseline has and the result has not: a crash is a regression."""
    error = after.error
    if measure.of_fidelity:
        error = next((one.error for one in after.failed if one.test == FIDELITY), error)
    if error:
        return ("regressed" if error.exit_code == EXIT_BUG else "inconclusive"), error.message
    return "inconclusive", after.unjudged or "it was not measured"


def _other_protocol(before: Fidelity | None, after: Fidelity | None) -> str | None:
    """Why two fidelities are not of the same tokens, if they are not."""
    if before is None or after is None:
        return None
    names = ("reference", "corpus_sha256", "window", "windows", "stride", "bos")
    other = [name for name in names if getattr(before, name) != getattr(after, name)]
    return f"judged on other tokens: another {', '.join(other)}" if other else None


def _phase(
    name: Literal["prefill", "decode"], value: Callable[[PhaseFidelity], float]
) -> Callable[[Result], float | None]:
    def of(result: Result) -> float | None:
        fidelity = result.fidelity
        return value(getattr(fidelity, name)) if fidelity else None

    return of


def _measures_of_phase(name: Literal["prefill", "decode"]) -> Iterator[_Measure]:
    kld, ratio, top1 = GATES[:3]
    yield _Measure(f"KLD {name}", "nats", -1, _phase(name, lambda p: p.kld.mean), kld, True)
    yield _Measure(
        f"PPL ratio {name}", "", -1, _phase(name, lambda p: p.ppl_ratio.value), ratio, True
    )
    yield _Measure(
        f"same top-1 {name}", "", 1, _phase(name, lambda p: p.same_top1.value), top1, True
    )


MEASURES = (
    *_measures_of_phase("prefill"),
    *_measures_of_phase("decode"),
    _Measure("artifact bytes", "B", -1, lambda result: result.artifact.bytes, GATES[3]),
    _Measure(
        "engine bytes",
        "B",
        -1,
        lambda result: result.memory.engine_bytes if result.memory else None,
        GATES[4],
    ),
)


def _step_bytes(result: Result) -> Iterator[_Measure]:
    """What a decode step reads, of every test that decodes."""
    for row in result.speed:
        key = row.test, row.batch

        def of(result: Result, key: tuple[str, int] = key) -> float | None:
            rows = [row for row in result.speed if (row.test, row.batch) == key]
            return rows[0].bytes_per_step_actual if rows else None

        yield _Measure(f"bytes a step, {row.name}", "B", -1, of, GATES[5])


def _gate(gates: Sequence[Gate], metric: str, kind: Kind, engine: str) -> Gate | None:
    return next((gate for gate in gates if gate.fits(metric, kind, engine)), None)


def _settings(before: Result, after: Result) -> Iterator[Setting]:
    """What differs of two results beside their numbers."""
    old, new = _settings_of(before), _settings_of(after)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield Setting(name=name, before=old.get(name, "none"), after=new.get(name, "none"))


def _settings_of(result: Result) -> dict[str, str]:
    environment, artifact = result.environment, result.artifact
    found = {
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
