"""The harness: a process for each test of each engine, so that no crash reaches another."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterator
from dataclasses import replace

import llx
from llx.artifact import Artifact
from llx.bench.kept import Kept, kept_anything
from llx.bench.machine import environment
from llx.bench.machine.watch import overall_run
from llx.bench.roofline.ceiling import CeilingJob, find_ceiling, together
from llx.bench.roofline.work import held_to
from llx.bench.sessions import engine_named
from llx.bench.speed.rows import overall_energy, speed_row, total_energy
from llx.bench.speed.samples import SpeedTest, all_samples
from llx.bench.worker import Job, Outcome, Scenario, run_scenario, scenarios_of
from llx.devices import device_of
from llx.errors import LlxError
from llx.gpu import find_gpu
from llx.processes import OwnProcess, ProcessDied, TimedOut
from llx.progress import Progress, silent
from llx.result import (
    FIDELITY,
    Against,
    ArtifactRecord,
    Ceiling,
    ErrorRecord,
    FailedTest,
    Fidelity,
    MemoryRecord,
    PhaseFidelity,
    Result,
    SpeedRow,
    TimeRecord,
)

IF_IT_DIED = (
    "what it said itself stands above; less memory is needed with a smaller -b, or by an export "
    "with a smaller --context"
)
IF_IT_IS_LATE = "give it longer with --limit, or leave this test out"
POLL_S = 0.5


def bench(job: Job, progress: Progress = silent) -> Result:
    """Measure one engine; see `Measurement`."""
    measurement = Measurement(job)
    measurement.run(progress)
    return measurement.result()


class Measurement:
    """One engine, test by test.

    An engine that this machine lacks, or a test that crashes, hangs or is killed, is a part of the
    result, and so is what was measured before an interrupt. Raises `BadInput` for what no engine
    could do: an unknown one, a workload that does not fit the artifact or the engine built of it.
    """

    def __init__(self, job: Job) -> None:
        self._artifact = artifact = job.artifact()
        self._job = replace(job, sha256=artifact.sha256)
        manifest = artifact.manifest
        job.workload.require_fit(manifest.contract.limits, context=manifest.spec.context)
        self._engine = engine_named(job.engine)
        self._load_before = environment.load()
        self._outcomes: list[Outcome] = []
        self._failed: list[FailedTest] = []
        self._error: LlxError | None = job.problem
        self._ceiling: Ceiling | None = None
        self._earlier: dict[SpeedTest, Ceiling] = {}  # of tests that were resumed from
        self._no_ceiling = None if job.roofline else "it was not asked for"
        self._interrupted = False
        self._unkept: str | None = None

    @property
    def scenarios(self) -> list[Scenario]:
        """What there is to do, in order."""
        return scenarios_of(self._job, self._artifact)

    @property
    def artifact(self) -> Artifact:
        """What is measured, as it was when the measurement began."""
        return self._artifact

    @property
    def failed_to_open(self) -> bool:
        """Whether no test of the engine is worth a try."""
        return self._error is not None

    @property
    def rows(self) -> list[SpeedRow]:
        """What was measured until now, held to what the machine can do."""
        return [self._held(test, row) for test, row in self._rows()]

    def run(self, progress: Progress = silent) -> None:
        """Measure all that was asked for, and go on where an earlier run was cut off."""
        if not self.able():
            return
        with Kept.opened(self._job, self._artifact) as kept:
            self._unkept = kept.problem
            try:
                for scenario in self.scenarios:
                    self._run(scenario, kept, progress)
                    if self._error:
                        break
                    if len(self._outcomes) == 1 and self._ceiling is None:  # resumed from
                        self.probe(progress)
                self.probe(progress)
            except KeyboardInterrupt:
                self.interrupt()
                raise
            finally:
                self._unkept = kept.problem
            kept.discard()

    @property
    def first_judged(self) -> Fidelity | None:
        """What it was judged on first, if it was."""
        return next((one for outcome in self._outcomes for one in outcome.judged), None)

    @property
    def beside(self) -> PhaseFidelity | None:
        """How far it is from a baseline, if it was held against one."""
        return next((outcome.beside for outcome in self._outcomes if outcome.beside), None)

    @property
    def unkept(self) -> str | None:
        """Why not all that was measured could be kept for `--resume`, if so."""
        return self._unkept

    @property
    def counts(self) -> tuple[int, int]:
        """How many tests are done, and how many there are."""
        return len(self._outcomes), len(self.scenarios)

    def was_cut_off(self) -> bool:
        """Whether an earlier run like this left something to go on from."""
        return kept_anything(self._job, self._artifact)

    def interrupt(self) -> None:
        """Note that some of what was asked for is missing."""
        self._interrupted = True

    def able(self) -> bool:
        """Whether the engine can be opened here at all."""
        if self._error:
            return False
        job = self._job
        try:
            self._engine.require()
            limits = self._engine.limits(self._artifact, max(job.workload.batches), job.built)
        except LlxError as error:
            self._error = error
            return False
        job.workload.require_fit(limits, "engine", "build")
        return True

    def _run(self, scenario: Scenario, kept: Kept, progress: Progress) -> None:
        """Run a scenario, unless it was run before."""
        outcome = kept.outcome(scenario)
        if outcome:
            self._outcomes.append(outcome)
            if self._job.roofline and outcome.samples and (then := kept.ceiling(scenario)):
                self._earlier[outcome.samples.test] = then
        elif self.run_alone(scenario, progress):
            kept.keep(scenario, self._outcomes[-1])
            if len(self._outcomes) == 1:
                self.probe(progress)
            if self._ceiling:
                kept.keep_ceiling(scenario, self._ceiling)

    def run_alone(self, scenario: Scenario, progress: Progress) -> bool:
        """Run a scenario to its end; whether it found anything."""
        process = self.started(scenario)
        try:
            while not process.ended:
                process.listen(progress, POLL_S)
        finally:
            process.end()
        return self.take(scenario, process)

    def started(self, scenario: Scenario) -> OwnProcess[Scenario, Outcome]:
        """A process that runs a scenario."""
        what = f"engine {self._job.engine}, {scenario.name},"
        limit_s = self._job.limit_s
        return OwnProcess(run_scenario, scenario, what, IF_IT_DIED, limit_s, IF_IT_IS_LATE)

    def take(self, scenario: Scenario, process: OwnProcess[Scenario, Outcome]) -> bool:
        """Take what a process found, or how it failed; whether it found anything.

        An engine whose first session is refused would refuse every other: that is its error.
        """
        try:
            self._outcomes.append(process.answer())
        except (ProcessDied, TimedOut) as error:
            self._failed.append(FailedTest(test=scenario.name, error=_record(error)))
        except LlxError as error:
            if self._outcomes or scenario.index is None:
                self._failed.append(FailedTest(test=scenario.name, error=_record(error)))
            else:
                self._error = error
        else:
            return True
        return False

    def probe(self, progress: Progress) -> None:
        """What the machine can do, after the first test and after the last."""
        if self._no_ceiling or not self._outcomes:
            return
        manifest, details = self._artifact.manifest, self._outcomes[0].details
        step_bytes = [row.bytes_per_step for _, row in self._rows() if row.bytes_per_step]
        job = CeilingJob(
            engine=self._job.engine,
            compute=manifest.precision.compute,
            threads=details.get("threads"),
            step_bytes=min(step_bytes, default=self._artifact.model_bytes),
            integers=manifest.precision.linear != "dense",
        )
        try:
            found = find_ceiling(job, progress)
        except LlxError as error:
            self._no_ceiling = error.message
            return
        self._ceiling = together(self._ceiling, found) if self._ceiling else found

    def result(self, against: Against | None = None, turns: str | None = None) -> Result:
        """What is known by now. `against`, `turns`: of one that was measured in turns."""
        job, manifest = self._job, self._artifact.manifest
        first = self._outcomes[0] if self._outcomes else None
        details = first.details if first else {}
        judged = [one for outcome in self._outcomes for one in outcome.judged]
        speed, error = self.rows, self._error
        return Result(
            llx=llx.__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            command=job.command,
            engine=job.engine,
            precision=manifest.precision.name,
            dialect=details.get("dialect"),
            artifact=ArtifactRecord.of(self._artifact, first.weights if first else "none"),
            environment=environment.read_environment(
                details.get("threads"),
                self._load_before,
                environment.load(),
                find_gpu() if first and self._engine.gpu else None,
                first.gpu if first else None,
                overall_run([outcome.run for outcome in self._outcomes if outcome.run]),
            ),
            speed=speed,
            failed=self._failed,
            interrupted=self._interrupted,
            against=against,
            turns=turns,
            ceiling=self._ceiling,
            no_ceiling=None if self._ceiling else self._no_ceiling,
            fidelity=judged[0] if judged else None,
            other_texts=judged[1:],
            # Not of what was held against a baseline: only one of two in turns keeps logits.
            memory=most_memory([one.memory for one in self._outcomes if one.samples or one.judged]),
            time=self._time(),
            details=details,
            energy=overall_energy(speed) if speed else None,
            unjudged=None if judged else self._unjudged(),
            error=_record(error) if error else None,
        )

    def _rows(self) -> Iterator[tuple[SpeedTest, SpeedRow]]:
        """What the samples of each test show, those of all processes that ran it."""
        manifest = self._artifact.manifest
        of_tests: dict[SpeedTest, list[Outcome]] = {}
        for outcome in self._outcomes:
            if outcome.samples:
                of_tests.setdefault(outcome.samples.test, []).append(outcome)
        for test, outcomes in of_tests.items():
            row = speed_row(
                all_samples([outcome.samples for outcome in outcomes if outcome.samples]),
                self._job.workload,
                manifest.spec,
                manifest.precision,
                manifest.dense,
                total_energy([outcome.energy for outcome in outcomes if outcome.energy]),
            )
            memory = most_memory([outcome.memory for outcome in outcomes])
            yield test, replace(row, memory=memory)

    def _held(self, test: SpeedTest, row: SpeedRow) -> SpeedRow:
        """A row held to what the machine could do when it was measured."""
        ceiling = self._earlier.get(test, self._ceiling)
        if ceiling is None:
            return row
        manifest, gpu = self._artifact.manifest, find_gpu() if self._engine.gpu else None
        return held_to(
            row,
            ceiling,
            manifest.spec,
            manifest.precision,
            manifest.contract.limits.max_new_tokens,
            device_of(gpu.name, gpu.memory_bytes) if gpu else None,
            manifest.dense,
        )

    def _time(self) -> TimeRecord | None:
        loads = [outcome.load_s for outcome in self._outcomes]
        if not loads:
            return None
        build_s = self._outcomes[0].details.get("build_s")
        return TimeRecord(load_s=statistics.median(loads), loads_s=loads, build_s=build_s)

    def _unjudged(self) -> str | None:
        """Why there is no fidelity, where the engine was run at all."""
        if self._error:
            return None
        if not self._job.fidelity:
            return "it was not asked for"
        if not self._job.judged_by(self._artifact):
            return "there is no reference; see `llx reference`"
        failed = [one.error.message for one in self._failed if one.test == FIDELITY]
        return failed[0] if failed else "it was interrupted"


def most_memory(found: list[MemoryRecord]) -> MemoryRecord | None:
    """The largest of several processes."""
    if not found:
        return None
    names = MemoryRecord.__dataclass_fields__
    return MemoryRecord(
        **{name: max(getattr(one, name) or 0 for one in found) or None for name in names}
    )


def _record(error: LlxError) -> ErrorRecord:
    return ErrorRecord(message=error.message, remedy=error.remedy, exit_code=error.exit_code)
