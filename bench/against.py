"""Two engines or artifacts measured in turns, in one run: what a verdict on wall clocks needs.

Each cycle is baseline, candidate, baseline, so that a drift meets both, and the two runs that the
baseline has in a row tell how much two runs of one thing differ here. Two processes hold the two
sessions, and one at a time has the turn.

A round is as many cycles as the workload has repetitions. Round follows round, each in two new
processes, until there is a verdict or no repetition is left. Simulated, 1,500 times each by
`benchmarks/verdicts.py`, rounds of 5 cycles and 60 at most, where runs differ by 3, 4.7, 6, 8 and
12 % (standard deviation): two equal sessions are "no change" in 100, 100, 99, 86 and 24 %, a loss
of 10 % is found in 100, 100, 100, 99 and 70 %, and equal ones are "slower" or "faster" in 0, 0.2,
0.3, 0.4 and 0.5 %. The interval, looked at after each round, covers 93.5 to 95.2 %.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llx.bench.run import POLL_S, Measurement
from llx.bench.speed.rows import MIN_REPETITIONS
from llx.bench.worker import Job, Scenario, Turns
from llx.errors import BadInput
from llx.progress import Progress, silent
from llx.result import Against, ComparedTest, Result, SpeedRow
from llx.statistics import THRESHOLD, compare, noise_floor, typical, verdict


class InTurns:
    """A candidate measured against a baseline, test by test. See `Measurement` for what is raised.

    Both are given the candidate's workload; the baseline has two repetitions for each of its.
    Raises `BadInput` for what cannot be done in turns.
    """

    def __init__(self, candidate: Job, baseline: Job, threshold: float = THRESHOLD) -> None:
        work = candidate.workload
        if work.until is not None:
            raise BadInput(
                "repetitions that go on until an interval is narrow cannot be taken in turns",
                "leave --until out: rounds of -r repetitions go on until there is a verdict",
            )
        if candidate.resume:
            raise BadInput(
                "what was measured in turns on another day is not gone on with",
                "leave --resume or --against out",
            )
        twice = replace(work, repetitions=2 * work.repetitions, warmup=2 * work.warmup)
        self._baseline_job = replace(baseline, workload=twice)
        self._candidate, self._baseline = Measurement(candidate), Measurement(self._baseline_job)
        self._threshold = threshold
        self._rounds = max(1, work.most_repetitions // work.repetitions)

    def run(self, progress: Progress = silent) -> None:
        """Measure both; where one cannot run, the other is measured by itself."""
        both = self._candidate, self._baseline
        if not all(one.able() for one in both):
            for one in both:
                one.run(progress)
            return
        try:
            for candidate, baseline in zip(*(one.scenarios for one in both), strict=False):
                if candidate.index is not None and baseline.index is not None:
                    self._until_decided(candidate, baseline, progress)
                if any(one.failed_to_open for one in both):
                    break
            for one in both:
                one.probe(progress)
                for scenario in one.scenarios:
                    if scenario.index is None and not one.failed_to_open:
                        one.run_alone(scenario, progress)
                one.probe(progress)
            self._judge_beside(progress)
        except KeyboardInterrupt:
            for one in both:
                one.interrupt()
            raise

    def _judge_beside(self, progress: Progress) -> None:
        """Hold the candidate against the baseline's own logits, where both know the same tokens."""
        one, other = self._candidate, self._baseline
        mine, theirs = one.first_judged, other.first_judged
        if mine is None or theirs is None or mine.tokens_sha256 != theirs.tokens_sha256:
            return
        if one.artifact.manifest.spec.vocab != other.artifact.manifest.spec.vocab:
            return
        with tempfile.TemporaryDirectory(prefix="llx-") as folder:
            shown = Path(folder) / "shown"
            for measurement, show in ((other, True), (one, False)):
                scenario = replace(measurement.scenarios[-1], shown=shown, show=show)
                if not measurement.run_alone(scenario, progress):
                    return

    def _until_decided(self, candidate: Scenario, baseline: Scenario, progress: Progress) -> None:
        """Rounds of one test."""
        for before in range(self._rounds):

            def news(what: str, done: int, total: int, unit: str, before: int = before) -> None:
                progress(what, before * total + done, self._rounds * total, unit)

            if not self._in_turns(candidate, baseline, news) or self._decided(candidate):
                break

    def _decided(self, candidate: Scenario) -> bool:
        """Whether a test has a verdict, or can have none."""
        theirs, ours = (
            [row for row in one.rows if row.name == candidate.name]
            for one in (self._baseline, self._candidate)
        )
        if any(not row.valid and len(row.samples) >= MIN_REPETITIONS for row in theirs + ours):
            return True
        found = compared(theirs, ours, self._threshold)
        return bool(found) and found[0].verdict != "inconclusive"

    def _in_turns(self, candidate: Scenario, baseline: Scenario, progress: Progress) -> bool:
        """One round of a test of both; whether both came to its end. The baseline begins."""
        context = multiprocessing.get_context("spawn")
        first, second = context.Semaphore(1), context.Semaphore(0)
        running, ended_well = [], []
        for measurement, scenario, turns in (
            (self._baseline, baseline, Turns(first, second, 2)),
            (self._candidate, candidate, Turns(second, first, 1)),
        ):
            process = measurement.started(replace(scenario, turns=turns))
            running.append((measurement, scenario, turns, process))
        try:
            while waiting := [entry for entry in running if not entry[-1].ended]:
                for measurement, scenario, turns, process in waiting:
                    shown = progress if measurement is self._candidate else silent
                    process.listen(shown, POLL_S / len(waiting))
                    if process.ended:
                        process.end()
                        turns.end()
                        ended_well.append(measurement.take(scenario, process))
        finally:
            for *_, process in running:
                process.end()
        return all(ended_well)

    def results(self) -> list[Result]:
        """The baseline's and the candidate's, which says how they compare."""
        turns, artifact = uuid.uuid4().hex, self._baseline.artifact
        against = Against(
            engine=self._baseline_job.engine,
            precision=artifact.manifest.precision.name,
            artifact=artifact.manifest.name,
            artifact_sha256=artifact.sha256,
            threshold=self._threshold,
            tests=compared(self._baseline.rows, self._candidate.rows, self._threshold),
            model=self._candidate.beside,
        )
        return [
            self._baseline.result(turns=turns),
            self._candidate.result(against=against, turns=turns),
        ]


def compared(
    baseline: list[SpeedRow], candidate: list[SpeedRow], threshold: float = THRESHOLD
) -> list[ComparedTest]:
    """The tests that both have, as they compare. An invalid row has no verdict but inconclusive."""
    of_baseline = {row.name: row for row in baseline}
    found = []
    for row in candidate:
        before = of_baseline.get(row.name)
        if before is None or len(before.samples) != 2 * len(row.samples) or len(row.samples) < 2:
            continue
        around: NDArray[np.float64] = np.array(before.samples).reshape(-1, 2)
        middle = np.exp(np.log(around).mean(1))
        ratio = compare(middle, np.array(row.samples), paired=True)
        in_a_row = np.array(before.samples[1:-1]).reshape(-1, 2)  # with no other run between
        noise = noise_floor(compare(in_a_row[:, 0], in_a_row[:, 1], paired=True))
        known = before.valid and row.valid
        found.append(
            ComparedTest(
                test=row.test,
                batch=row.batch,
                baseline_mean=typical(middle, ratio.method),
                mean=typical(np.array(row.samples), ratio.method),
                ratio=ratio.ratio,
                ci95=(ratio.low, ratio.high),
                ci_method=ratio.method,
                noise=noise,
                verdict=verdict(ratio, noise, threshold) if known else "inconclusive",
            )
        )
    return found
