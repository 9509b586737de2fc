"""Speed: the tests of a workload, run on a session and turned into rows with uncertainty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llx.bench import steps
from llx.bench.roofline import bytes_per_decode_step
from llx.bench.sessions.base import Session
from llx.errors import BadInput
from llx.graphs.contract import Limits
from llx.llama.spec import LlamaSpec
from llx.precision import Precision
from llx.progress import Progress, silent
from llx.result import Percentiles, SpeedRow, Times

MIN_REPETITIONS = 5


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to measure: a full cross product of lengths, depths and batch sizes."""

    prompts: tuple[int, ...] = (512,)
    generated: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (1,)
    repetitions: int = 5
    warmup: int = 1
    seed: int = 0

    def tests(self) -> Iterator[SpeedTest]:
        """Every test, batch by batch."""
        for batch, depth in itertools.product(self.batches, self.depths):
            for length in self.prompts:
                yield SpeedTest(prefill=True, length=length, depth=depth, batch=batch)
            for length in self.generated:
                yield SpeedTest(prefill=False, length=length, depth=depth, batch=batch)

    def require_fit(self, limits: Limits, of: str = "artifact", make: str = "export") -> None:
        """Raise `BadInput` where there is no test, or one does not fit the limits.

        `of` says whose they are, `make` what makes others.
        """
        if not self.prompts and not self.generated:
            raise BadInput("there is nothing to measure", "give -p or -n a length above 0")
        for test in self.tests():
            needed = test.depth + test.length
            if needed > limits.capacity:
                raise BadInput(
                    f"{test.name} fills {needed} positions and the cache holds {limits.capacity}",
                    f"shorten it, or {make} with --context {needed} or more",
                )
            if test.batch > limits.max_rows:
                raise BadInput(
                    f"batch {test.batch} is over the {of}'s {limits.max_rows} rows",
                    f"choose -b {limits.max_rows} or less",
                )


@dataclass(frozen=True, kw_only=True)
class SpeedTest:
    """One measurement: `length` tokens prefilled, or generated one by one, after `depth` others."""

    prefill: bool
    length: int
    depth: int
    batch: int

    @property
    def name(self) -> str:
        """The field's name for it: pp512, tg128, tg128 @ d4096."""
        depth = f" @ d{self.depth}" if self.depth else ""
        return f"{'pp' if self.prefill else 'tg'}{self.length}{depth}"


def measure(
    open_session: Callable[[int], Session],
    workload: Workload,
    spec: LlamaSpec,
    precision: Precision,
    progress: Progress = silent,
    before_close: Callable[[Session], None] = lambda _: None,
) -> list[SpeedRow]:
    """Run every test of a workload; a session is opened once for each batch size.

    `before_close` is given each session when its tests are done.
    """
    rows = []
    for batch, tests in itertools.groupby(workload.tests(), key=lambda test: test.batch):
        session = open_session(batch)
        for test in tests:
            rows.append(_measure(session, test, workload, spec, precision, progress))
        before_close(session)
        session.close()
    return rows


def _measure(
    session: Session,
    test: SpeedTest,
    workload: Workload,
    spec: LlamaSpec,
    precision: Precision,
    progress: Progress,
) -> SpeedRow:
    rng = np.random.default_rng(workload.seed)
    total = workload.warmup + workload.repetitions
    step_ns = []
    for repetition in range(total):
        progress(test.name, repetition, total, "run")
        nanoseconds = _run_once(session, test, rng)
        if repetition >= workload.warmup:
            step_ns.append(nanoseconds)
    progress(test.name, total, total, "run")
    mean_depth = test.depth + (test.length + 1) // 2
    needed = bytes_per_decode_step(spec, precision, mean_depth, test.batch)
    read = needed
    if session.reads_capacity:
        read = bytes_per_decode_step(spec, precision, session.limits.capacity, test.batch)
    return _row(test, step_ns, None if test.prefill else (needed, read))


def _run_once(session: Session, test: SpeedTest, rng: np.random.Generator) -> list[int]:
    """One repetition from an empty cache, on fresh random tokens; each step's nanoseconds."""
    vocab = session.limits.vocab
    tokens = rng.integers(0, vocab, (test.batch, test.depth + test.length), dtype=np.int64)
    session.reset()
    if test.depth:
        steps.prefill(session, tokens[:, : test.depth])
    rest = tokens[:, test.depth :]
    if test.prefill:
        return steps.prefill(session, rest, test.depth)
    return [
        steps.decode_step(session, np.ascontiguousarray(rest[:, i : i + 1]), test.depth + i)
        for i in range(test.length)
    ]


def _row(
    test: SpeedTest, step_ns: list[list[int]], decode_bytes: tuple[int, int] | None
) -> SpeedRow:
    """A row of the samples; `decode_bytes` are those that a decode step must and does read."""
    total_s = np.array([sum(run) for run in step_ns]) / 1e9
    samples = test.batch * test.length / total_s
    reason = None
    if len(samples) < MIN_REPETITIONS:
        reason = f"{len(samples)} repetitions, fewer than {MIN_REPETITIONS}"
    elif confidence_interval(samples)[0] <= 0:
        reason = "so noisy that its confidence interval reaches zero"
    itl = None
    if not test.prefill:
        pooled = np.concatenate([np.asarray(run) for run in step_ns]) / 1e6
        itl = Percentiles(**_percentiles(pooled))
    return SpeedRow(
        test=test.name,
        isl=test.length if test.prefill else 0,
        osl=0 if test.prefill else test.length,
        depth=test.depth,
        batch=test.batch,
        samples=samples.tolist(),
        step_ns=step_ns,
        mean=float(samples.mean()),
        sd=_sd(samples),
        ci95=confidence_interval(samples),
        ttft_ms=_times(total_s * 1e3) if test.prefill else None,
        tpot_ms=None if test.prefill else _times(total_s * 1e3 / test.length),
        itl_ms=itl,
        bytes_per_step=decode_bytes[0] if decode_bytes else None,
        bytes_per_step_actual=decode_bytes[1] if decode_bytes else None,
        valid=reason is None,
        invalid_reason=reason,
    )


def confidence_interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; the sample itself where there is only one."""
    mean = float(samples.mean())
    if len(samples) < 2 or not samples.std():
        return (mean, mean)
    low, high = stats.t.interval(0.95, len(samples) - 1, mean, stats.sem(samples))
    return (float(low), float(high))


def _sd(samples: NDArray[np.float64]) -> float:
    return float(samples.std(ddof=1)) if len(samples) > 1 else 0.0


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99))
    return {"p50": float(p50), "p90": float(p90), "p95": float(p95), "p99": float(p99)}


def _times(values_ms: NDArray[np.float64]) -> Times:
    return Times(mean=float(values_ms.mean()), sd=_sd(values_ms), **_percentiles(values_ms))
