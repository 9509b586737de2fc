"""What a process of the harness does: one test of a workload on one engine, or its judging."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Literal

from llx.artifact import Artifact, open_artifact, replaced
from llx.bench import clock
from llx.bench.fidelity.judge import judge_beside, judge_session
from llx.bench.fidelity.reference import (
    Reference,
    read_reference,
    read_scores,
    score_windows,
    write_scores,
)
from llx.bench.machine.watch import Watch
from llx.bench.session import Details
from llx.bench.sessions import Built, Engine, Session, engine_named
from llx.bench.speed.samples import Enough, Samples, SpeedTest, Workload, samples
from llx.conditions import EnergyRecord, GpuRecord, RunRecord
from llx.errors import LlxError
from llx.gpu import find_gpu
from llx.processes import peak_host_bytes
from llx.progress import Progress
from llx.result import BESIDE, FIDELITY, Fidelity, MemoryRecord, PhaseFidelity, name_of

LIMIT_S = 3600.0
PLENTY = 1 << 16  # of turns: more than a test has repetitions
# Threads that wait for work spin for a while before they sleep: ONNX Runtime's for some 50 ms,
# OpenMP's for up to 200. Beside those of the process that just gave its turn away a run was 5 to
# 13 % slower, its first step twice as slow.
REST_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one engine is to do: every test of a workload, and perhaps be judged.

    `sha256`: the artifact that is meant; None is the one that stands in the folder as the work
    begins. `limit_s`: of each process. `roofline`: hold the speeds to what the machine can do.
    `resume`: go on where a run like this was cut off. `references`: names of those that it is
    judged by; None is all that the artifact holds.
    """

    folder: Path
    engine: str
    workload: Workload
    fidelity: bool
    command: str
    built: Built = field(default_factory=Built)
    problem: LlxError | None = None  # why it cannot run, where that is known already
    limit_s: float = LIMIT_S
    roofline: bool = True
    resume: bool = False
    sha256: str | None = None
    references: tuple[str, ...] | None = None

    def judged_by(self, artifact: Artifact) -> tuple[str, ...]:
        """Names of the references that it is judged by."""
        if not self.fidelity:
            return ()
        return artifact.manifest.references if self.references is None else self.references

    def artifact(self) -> Artifact:
        """The artifact. Raises `BadInput` where another has taken the place of the one meant.

        Every process asks for itself: a number is filed under the hash of what it ran.
        """
        found = open_artifact(self.folder)
        if self.sha256 not in (None, found.sha256):
            raise replaced(self.folder)
        return found


class Turns:
    """The right to run a repetition, for one of two processes that take turns.

    `in_a_row`: 1, or 2 for the one that runs before and after each repetition of the other.
    """

    def __init__(self, mine: Semaphore, other: Semaphore, in_a_row: Literal[1, 2]) -> None:
        self._mine, self._other, self._in_a_row = mine, other, in_a_row
        self._taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn, let all threads come to rest, and give it away afterwards."""
        self._mine.acquire()
        time.sleep(REST_S)
        try:
            yield
        finally:
            self._taken += 1
            keeps = self._in_a_row == 2 and self._taken % 2 == 0
            (self._mine if keeps else self._other).release()

    def end(self) -> None:
        """Never wait for a turn of this one again: its process has ended."""
        for _ in range(PLENTY):
            self._other.release()


@dataclass(frozen=True)
class Scenario:
    """What one process does: a test of the workload by its index, or, without one, the judging.

    `shown`: a file that a baseline writes the logits of its windows into (`show`), and that a
    candidate is held against.
    """

    job: Job
    index: int | None
    turns: Turns | None = None
    shown: Path | None = None
    show: bool = False

    @property
    def test(self) -> SpeedTest | None:
        """The test of the workload."""
        return None if self.index is None else list(self.job.workload.tests())[self.index]

    @property
    def name(self) -> str:
        """The test's name, and its batch where that is not 1."""
        test = self.test
        if test is None:
            return BESIDE if self.shown else FIDELITY
        return name_of(test.name, test.batch)


def scenarios_of(job: Job, artifact: Artifact) -> list[Scenario]:
    """Every test, and the judging where there is something to judge by."""
    found = [Scenario(job, index) for index, _ in enumerate(job.workload.tests())]
    if job.judged_by(artifact):
        found.append(Scenario(job, None))
    return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one process found, raw: what its samples show is worked out by the harness."""

    weights: str
    details: Details
    memory: MemoryRecord
    load_s: float
    samples: Samples | None = None
    energy: EnergyRecord | None = None
    judged: list[Fidelity] = field(default_factory=list)
    beside: PhaseFidelity | None = None  # a baseline, by what that has shown
    run: RunRecord | None = None
    gpu: GpuRecord | None = None


def run_scenario(scenario: Scenario, progress: Progress) -> Outcome:
    """Open a session and do what is to be done. Raises `LlxError` where that fails."""
    job, test = scenario.job, scenario.test
    artifact, engine = job.artifact(), engine_named(job.engine)
    held: list[int] = []
    judged: list[Fidelity] = []
    found = energy = run = card = beside = None
    with Watch(find_gpu() if engine.gpu else None) if test else nullcontext() as watch:
        start = clock.now_ns()
        first = engine.open(artifact, test.batch if test else 1, job.built)
        load_s = (clock.now_ns() - start) / 1e9
        reopen = _Reopen(engine, artifact, job.built, first)
        details, weights, cache = first.details(), first.weights, first.memory().cache_bytes
        if scenario.shown and scenario.show:
            tokens = read_reference(artifact, job.judged_by(artifact)[0]).scores.tokens
            write_scores(scenario.shown, score_windows(reopen, tokens, progress))
        elif scenario.shown:
            beside = judge_beside(reopen, read_scores(scenario.shown), progress)
        elif watch is None:
            for name in job.judged_by(artifact):
                reference = read_reference(artifact, name)
                judged.append(judge_session(reopen, reference, _about(reference, progress)))
        else:
            (found,) = samples(
                reopen,
                job.workload,
                progress,
                lambda session: held.append(session.memory().device_bytes or 0),
                _enough(job.workload),
                scenario.index,
                scenario.turns.take if scenario.turns else nullcontext,
                watch.window,
            )
            energy = watch.test_ended(found.tokens)
            run, card = watch.end(), watch.gpu()
            if scenario.turns:  # the other's process is no disturbance
                run = replace(run, others_cpu=None)
    memory = MemoryRecord(
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=max(held, default=0) or None,
        cache_bytes=cache,
        engine_bytes=details.get("engine_bytes"),
    )
    return Outcome(
        weights=weights,
        details=details,
        memory=memory,
        load_s=load_s,
        samples=found,
        energy=energy,
        judged=judged,
        beside=beside,
        run=run,
        gpu=card,
    )


def _about(reference: Reference, progress: Progress) -> Progress:
    """Progress that names a user's text."""
    text = reference.protocol.text
    return lambda what, *more: progress(f"{text}: {what}" if text else what, *more)


def _enough(workload: Workload) -> Enough:
    """Whether repetitions will do; what statistics need is loaded only where it is needed."""
    if workload.until is None:
        return lambda test, step_ns: True
    from llx.bench.speed.rows import narrow_enough

    return narrow_enough(workload)


class _Reopen:
    """Opens sessions for the rows asked for, and hands out first the one that is open already."""

    def __init__(self, engine: Engine, artifact: Artifact, built: Built, ready: Session) -> None:
        self._engine, self._artifact, self._built = engine, artifact, built
        self._ready: Session | None = ready

    def __call__(self, rows: int) -> Session:
        ready, self._ready = self._ready, None
        if ready is not None and ready.rows == rows:
            return ready
        return self._engine.open(self._artifact, rows, self._built)
