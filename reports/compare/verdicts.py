"""A result beside a baseline's: every measure with a verdict, by the gate that is about it.

Three kinds of measure, as METRICS has it: those that are the same on any machine, shares of the
roofline, which may be held against another machine's, and wall clocks, which may not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from llx.reports.compare.change import NOT_MEASURED, Change, Judging
from llx.reports.compare.gates import OF_ROOFLINE, Gate, Kind, gate_for
from llx.reports.compare.judged import (
    Judge,
    Judged,
    always,
    apart_from_none,
    by_spread,
    in_two_runs,
    in_two_runs_compared,
    invalid_row,
    other_protocol,
    other_scoring,
    perplexity,
    score,
)
from llx.reports.compare.past import Past
from llx.reports.levels import Spread
from llx.reports.measures import other_numbers, phase_figures
from llx.result import FIDELITY, ComparedTest, Fidelity, Result, SpeedRow, on_text
from llx.statistics import Comparison, typical, verdict

ANOTHER_DEVICE = "another device, or another setting of it"
SCORE = "score, "  # and a task with its metric
MODEL = "PPL "  # and a phase: it judges the model, where "PPL ratio" judges the export


def lost_with(before: Result, gates: Sequence[Gate]) -> Iterator[Change]:
    """What gates require of a baseline's result that no other is held against."""
    # On another device, so that shares of the roofline are among its measures, too.
    elsewhere = replace(before, environment=replace(before.environment, device_fingerprint=""))
    for change in Pair(before, elsewhere, gates).changes():
        gate = gate_for(gates, change.metric, change.kind, change.engine)
        if gate and gate.required:
            why = f"required: {NOT_MEASURED}"
            yield replace(
                change, after=None, ratio=None, ci95=None, apart=False, verdict="regressed", why=why
            )


def measurable(results: Sequence[Result]) -> dict[tuple[str, Kind, str], str]:
    """All that a gate may be about, as name, kind and engine, with its unit."""
    every = (Gate(metric="?*", threshold="5%"),)
    found: dict[tuple[str, Kind, str], str] = {}
    for result in results:
        elsewhere = replace(result, environment=replace(result.environment, device_fingerprint=""))
        for other in (result, elsewhere):
            for change in Pair(result, other, every).changes():
                found[change.metric, change.kind, change.engine] = change.unit
    return found


def required_and_nowhere(
    measured: Collection[tuple[str, Kind, str]], gates: Sequence[Gate]
) -> Iterator[Change]:
    """What gates require and no result has at all: a gate that is about nothing guards nothing."""
    for gate in gates:
        if gate.required and not any(gate.fits(*measure) for measure in measured):
            yield Change(
                engine=gate.engine,
                precision="",
                artifact="",
                metric=gate.metric,
                kind=gate.kind or "deterministic",
                unit="",
                before=None,
                after=None,
                verdict="regressed",
                why=f"required: no result has it ({gate.kind or 'of any kind'})",
            )


class Pair(Judging):
    """A result, and the baseline's that it is compared with.

    `past`: tells how far separate runs lie apart.
    """

    def __init__(
        self, before: Result, after: Result, gates: Sequence[Gate], past: Past | None = None
    ) -> None:
        super().__init__(after, gates)
        self._before, self._past = before, past
        one, other = (result.environment for result in (before, after))
        self._same_device = one.device_fingerprint == other.device_fingerprint
        self._same_threads = one.threads == other.threads

    def changes(self) -> Iterator[Change]:
        """Every measure that the baseline has."""
        yield from self._speeds()
        yield from self._fidelity()
        yield from self._beside()
        yield from self._scores()
        yield from self._counts()
        yield from self._others()

    def _speeds(self) -> Iterator[Change]:
        """Each test and what a step of it reads; where clocks differ, its share of the roofline."""
        rows = {row.name: row for row in self._after.speed}
        for row in self._before.speed:
            now = rows.get(row.name)
            missing = self.missing(row.name)
            yield self.change_of(
                row.name,
                "wall clock",
                row.unit,
                self._speeds_of(row, now),
                self._wall_clock(row, now) if now else always(missing),
                invalid_row(now),
            )
            if row.bytes_per_step_actual is not None:
                read = row.bytes_per_step_actual, now.bytes_per_step_actual if now else None
                yield self.deterministic(f"bytes a step, {row.name}", "B", read, missing=missing)
            if not self._same_device and row.roofline_probe:
                share = now.roofline_probe if now else None
                yield self.change_of(
                    f"{row.name}{OF_ROOFLINE}",
                    "roofline share",
                    "%",
                    (100 * row.roofline_probe, 100 * share if share else None),
                    self._roofline(row, now, share / row.roofline_probe)
                    if now and share
                    else always(missing),
                    invalid_row(now),
                )

    def _speeds_of(self, row: SpeedRow, now: SpeedRow | None) -> tuple[float, float | None]:
        """The two numbers that the ratio is of, where there is one."""
        if now is None:
            return row.speed, None
        if test := self._test_in_turns(now.name):
            return test.baseline_mean, test.mean
        found = in_two_runs_compared(row, now) if self._same_device else None
        if found is None:
            return row.speed, now.speed
        before, after = (typical(np.array(one.samples), found.method) for one in (row, now))
        return before, after

    def _wall_clock(self, row: SpeedRow, now: SpeedRow) -> Judge:
        if not self._same_device:
            return always(Judged("not comparable", ANOTHER_DEVICE))
        if not self._same_threads:
            return always(Judged("not comparable", "on another number of threads"))
        invalid = invalid_row(row) or invalid_row(now)
        judge = self._in_turns(now) or in_two_runs(row, now, self._spread(now.name))

        def judged(gate: Gate) -> Judged:
            found = judge(gate)
            if invalid and found.ratio:
                return replace(found, verdict="inconclusive", apart=False, why=invalid)
            return found

        return judged

    def _spread(self, test: str) -> Spread | None:
        """How far a history has runs of a test apart on this device, if there is one."""
        return self._past.spread(self._after, test) if self._past else None

    def _in_turns(self, now: SpeedRow) -> Judge | None:
        """By what was found in turns, if the two were measured so."""
        test = self._test_in_turns(now.name)
        if test is None:
            return None
        low, high = test.ci95
        found = Comparison(ratio=test.ratio, low=low, high=high, method=test.ci_method)
        noise, why = test.noise, f"in turns, noise ±{100 * test.noise:.1f} %"
        return lambda gate: Judged.of(verdict(found, noise, gate.share), why, found, gate.share)

    def _test_in_turns(self, name: str) -> ComparedTest | None:
        """What was found of a test in turns, if the two were measured so."""
        against = self._after.against
        if against is None or self._after.turns != self._before.turns:
            return None
        return next((test for test in against.tests if test.name == name), None)

    def _roofline(self, row: SpeedRow, now: SpeedRow, ratio: float) -> Judge:
        """By the shares of what each machine could do, as sure as the probes are steady."""
        ceilings = [one.ceiling for one in (self._before, self._after) if one.ceiling]
        spreads = [
            one.read_highest / one.read_bytes_per_s - 1 if one.read_bytes_per_s else math.inf
            for one in ceilings
        ]
        spread = max(spreads, default=0.0)
        if not (math.isfinite(spread) and math.isfinite(ratio) and spread > -1):
            return always(Judged("inconclusive", "INVALID: what the probes read is no number"))
        found = Comparison(
            ratio=ratio,
            low=ratio / (1 + spread),
            high=ratio * (1 + spread),
            method="the probes' spread",
        )
        invalid = invalid_row(row) or invalid_row(now)
        if invalid:
            return always(Judged.of("inconclusive", invalid, found))
        return lambda gate: Judged.of_two_runs(found, gate, "roofline share")

    def _fidelity(self) -> Iterator[Change]:
        """On the same tokens: the perplexity of the model, and what its export has cost."""
        for text, before in self._before.judged().items():
            yield from self._on_text(text, before, self._judged_like(text, before))

    def _judged_like(self, text: str, before: Fidelity) -> Fidelity | None:
        """What this one was judged on that is nearest: the same tokens, the same text, or all."""
        judged = self._after.judged()
        same = (one for one in judged.values() if not other_protocol(before, one))
        only = self._after.fidelity if len(self._before.judged()) == 1 else None
        return next(same, judged.get(text, only))

    def _on_text(self, text: str, before: Fidelity, after: Fidelity | None) -> Iterator[Change]:
        unlike = other_protocol(before, after)
        missing = self.missing(FIDELITY, self._after.unjudged)
        for name in ("prefill", "decode"):
            old, now = getattr(before, name), getattr(after, name) if after else None
            yield self.deterministic(
                on_text(f"{MODEL}{name}", text),
                "",
                (old.ppl, now.ppl if now else None),
                unlike=unlike,
                missing=missing,
                judge=partial(perplexity, old, now) if now else None,
            )
            figures = phase_figures(now) if now else ()
            numbers = {figure.name: figure.estimate.value for figure in figures}
            for figure in phase_figures(old):
                yield self.deterministic(
                    on_text(f"{figure.name} {name}", text),
                    figure.unit,
                    (figure.estimate.value, numbers.get(figure.name)),
                    figure.more_is_better,
                    unlike,
                    missing=missing,
                )

    def _beside(self) -> Iterator[Change]:
        """How far the model is from the baseline's: a number to look at, or to bound by a gate."""
        against = self._after.against
        if against is None or against.model is None or self._after.turns != self._before.turns:
            return
        for figure in phase_figures(against.model):
            if figure.name == "PPL ratio":
                continue  # that of the perplexities says it
            value, none = figure.estimate.value, 1.0 if figure.more_is_better else 0.0
            yield self.change_of(
                f"model {figure.name}",
                "deterministic",
                figure.unit,
                (none, value),
                partial(apart_from_none, none, value, figure.more_is_better),
                more_is_better=figure.more_is_better,
            )

    def _scores(self) -> Iterator[Change]:
        """What tasks scored, where it is known which way is better."""
        before, after = self._before.scores, self._after.scores
        if before is None:
            return
        scored = {name: (task, one) for name, task, one in after.metrics()} if after else {}
        for name, task, old in before.metrics():
            if old.higher_is_better is None:
                continue
            other, now = scored.get(name, (None, None))
            yield self.deterministic(
                f"{SCORE}{name}",
                "",
                (old.value, now.value if now else None),
                old.higher_is_better,
                other_scoring(before, task, after, other) if after and other else None,
                missing=self.missing(name),
                judge=partial(score, old, now) if now else None,
            )

    def _counts(self) -> Iterator[Change]:
        """Bytes on disk, and nodes of the graph."""
        for unit, counts in (("B", _bytes_of), ("", _nodes_of)):
            after = counts(self._after)
            for name, count in counts(self._before).items():
                numbers = count, after.get(name)
                yield self.deterministic(name, unit, numbers, missing=self.missing(name))

    def _others(self) -> Iterator[Change]:
        """Latencies, memory, energy, times to load and to build: where a gate is about them."""
        after = other_numbers(self._after)
        for metric, (kind, unit, before, of) in other_numbers(self._before).items():
            gate = gate_for(self._gates, metric, kind, self._after.engine)
            if gate is None or not gate.names:
                continue
            now = after[metric].value if metric in after else None
            numbers, missing = (before, now), self.missing(of)
            if kind == "deterministic":
                unlike = None if self._same_device else ANOTHER_DEVICE
                yield self.deterministic(metric, unit, numbers, unlike=unlike, missing=missing)
                continue
            if now is None:
                judge = always(missing)
            elif not self._same_device:
                judge = always(Judged("not comparable", ANOTHER_DEVICE))
            else:
                judge = self._of_times(before, now, of, tail=" p9" in metric)
            yield self.change_of(metric, kind, unit, numbers, judge, more_is_better=False)

    def _of_times(self, before: float, after: float, test: str, tail: bool) -> Judge:
        """By single numbers that vary: in turns by as much as the test, but the tail by more."""
        if not (before > 0 and after > 0 and math.isfinite(before) and math.isfinite(after)):
            return always(Judged("inconclusive", "INVALID: its numbers are no times"))
        faster = before / after
        found = Comparison(ratio=faster, low=faster, high=faster, method="no interval")
        in_turns = None if tail else self._test_in_turns(test)

        def judged(gate: Gate) -> Judged:
            if in_turns is None:
                of_speed = by_spread(None if tail else self._spread(test), found, 1)(gate)
            else:
                said = verdict(found, in_turns.noise, gate.share)
                why = f"in turns, noise ±{100 * in_turns.noise:.1f} %"
                of_speed = Judged.of(said, why, found, gate.share)
            apart = in_turns is None
            return replace(of_speed, ratio=after / before, ci95=None, apart=apart)

        return judged


def _bytes_of(result: Result) -> dict[str, int]:
    """Bytes on disk by their names."""
    engine = result.memory.engine_bytes if result.memory else None
    found = {"artifact bytes": result.artifact.bytes, "engine bytes": engine}
    return {name: count for name, count in found.items() if count is not None}


def _nodes_of(result: Result) -> dict[str, int]:
    """The nodes of the graph that ran."""
    nodes = result.artifact.graph_nodes.get(result.dialect or "")
    return {} if nodes is None else {"graph nodes": nodes}
