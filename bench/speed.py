"""Speed: the samples of a workload, turned into rows with uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llx.bench.roofline import bytes_per_decode_step
from llx.bench.samples import OpenSession, SpeedTest, Workload, samples
from llx.bench.sessions.base import Session
from llx.bench.watch import Watch
from llx.conditions import EnergyRecord
from llx.llama.spec import LlamaSpec
from llx.precision import Precision
from llx.progress import Progress, silent
from llx.result import Percentiles, SpeedRow, Times

MIN_REPETITIONS = 5


def measure(
    open_session: OpenSession,
    workload: Workload,
    spec: LlamaSpec,
    precision: Precision,
    progress: Progress = silent,
    before_close: Callable[[Session], None] = lambda _: None,
    dense: frozenset[str] = frozenset(),
    watch: Watch | None = None,
) -> list[SpeedRow]:
    """Run every test of a workload; a session is opened once for each batch size.

    `before_close` is given each session when its tests are done. `dense`: modules that are not
    quantized where the precision says so. `watch` measures the energy of each test.
    """
    window = watch.window if watch else nullcontext
    rows = []
    for test, step_ns, read in samples(open_session, workload, progress, before_close, window):
        energy = watch.test_ended(test.tokens(workload.repetitions)) if watch else None
        rows.append(speed_row(test, step_ns, spec, precision, read, dense, energy))
    return rows


def speed_row(
    test: SpeedTest,
    step_ns: list[list[int]],
    spec: LlamaSpec,
    precision: Precision,
    read: int | None,
    dense: frozenset[str] = frozenset(),
    energy: EnergyRecord | None = None,
) -> SpeedRow:
    """What the samples of a test show: nanoseconds of each step of each repetition.

    `read`: positions of the cache that each step reads, where it reads more than the filled ones.
    """
    mean_depth = test.depth + (test.length + 1) // 2
    needed, actual = (
        bytes_per_decode_step(spec, precision, positions, test.batch, dense)
        for positions in (mean_depth, read or mean_depth)
    )
    return _row(test, step_ns, None if test.prefill else (needed, actual), energy)


def _row(
    test: SpeedTest,
    step_ns: list[list[int]],
    decode_bytes: tuple[int, int] | None,
    energy: EnergyRecord | None,
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
        energy=energy,
        valid=reason is None,
        invalid_reason=reason,
    )


def overall_energy(rows: list[SpeedRow]) -> EnergyRecord:
    """What all tests of an engine took: those that generate, or else the others; or why none."""
    generated = [row.energy for row in rows if row.energy and row.osl]
    records = generated or [row.energy for row in rows if row.energy]
    measured = [record for record in records if record.joules is not None]
    if not measured:
        return records[0] if records else EnergyRecord(reason="no test was measured")
    joules = sum(record.joules or 0.0 for record in measured)
    tokens = sum(record.tokens or 0 for record in measured)
    return replace(
        measured[0],
        window=sum(record.window or 0.0 for record in measured),
        joules=joules,
        tokens=tokens,
        mj_per_token=1e3 * joules / tokens if tokens else None,
        samples=sum(record.samples for record in measured),
        coverage=min(record.coverage or 0.0 for record in measured),
        error=max(record.error or 0.0 for record in measured),
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
