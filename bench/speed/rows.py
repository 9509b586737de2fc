"""Speed: the samples of a workload, turned into rows with uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llx.bench.roofline.work import bytes_per_decode_step, bytes_where_masked
from llx.bench.speed.samples import Enough, Samples, SpeedTest, Workload
from llx.conditions import EnergyRecord
from llx.llama.spec import LlamaSpec
from llx.precision import Precision
from llx.result import Percentiles, SpeedRow, Times
from llx.statistics import LEVEL, LOOKED_AT_LEVEL, Interval, drift, interval, outliers

MIN_REPETITIONS = 5
LOOKED_AT = f", at {100 * LOOKED_AT_LEVEL:.0f} % since repetitions went on until it was narrow"


def narrow_enough(workload: Workload) -> Enough:
    """Whether the repetitions until now have the interval that the workload goes on until."""

    def enough(test: SpeedTest, step_ns: list[list[int]]) -> bool:
        reached = _interval(_tok_per_s(test, step_ns), workload).half_width
        return workload.until is None or reached <= workload.until

    return enough


def speed_row(
    found: Samples,
    workload: Workload,
    spec: LlamaSpec,
    precision: Precision,
    dense: frozenset[str] = frozenset(),
    energy: EnergyRecord | None = None,
) -> SpeedRow:
    """What the samples of a test show, and every reason why they do not count."""
    test, step_ns = found.test, found.step_ns
    speeds = _tok_per_s(test, step_ns)
    between = _interval(speeds, workload)
    apart = outliers(speeds)
    prefill_ms, decode_ms = _phases_ms(test, step_ns)
    total_ms = prefill_ms + decode_ms.sum(1)
    gaps = test.decode_steps
    needed, actual = _decode_bytes(found, spec, precision, dense)
    reasons = [*_reasons(speeds, between, workload), *found.faults]
    return SpeedRow(
        test=test.name,
        isl=test.isl,
        osl=test.osl,
        depth=test.depth,
        batch=test.batch,
        samples=speeds.tolist(),
        step_ns=step_ns,
        mean=float(speeds.mean()),
        sd=_sd(speeds),
        median=float(np.median(speeds)),
        ci95=(between.low, between.high),
        ci_method=between.method + ("" if workload.until is None else LOOKED_AT),
        drift=drift(speeds),
        outliers=apart.count,
        farthest_outlier=apart.farthest,
        warmup=workload.warmup,
        seed=workload.seed,
        until=workload.until,
        quick=workload.quick,
        ttft_ms=_times(prefill_ms) if test.isl else None,
        tpot_ms=_times(decode_ms.sum(1) / gaps) if gaps else None,
        itl_ms=Percentiles(**_percentiles(decode_ms.ravel())) if gaps else None,
        e2e_ms=_times(total_ms) if test.isl and test.osl else None,
        bytes_per_step=needed if gaps else None,
        bytes_per_step_actual=actual if gaps else None,
        energy=energy,
        valid=not reasons,
        invalid_reason="; ".join(reasons) or None,
    )


def overall_energy(rows: list[SpeedRow]) -> EnergyRecord:
    """What all tests of an engine took: those that generate, or else the others; or why none."""
    generated = [row.energy for row in rows if row.energy and row.osl]
    found = total_energy(generated or [row.energy for row in rows if row.energy])
    return found or EnergyRecord(reason="no test was measured")


def total_energy(records: list[EnergyRecord]) -> EnergyRecord | None:
    """What several measurements took together: those that have a figure, or why none has."""
    measured = [record for record in records if record.joules is not None]
    if not measured:
        return records[0] if records else None
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


def _reasons(speeds: NDArray[np.float64], between: Interval, workload: Workload) -> list[str]:
    """Why repetitions like these do not count, whatever the session did."""
    reasons = []
    if len(speeds) < MIN_REPETITIONS:
        reasons.append(f"{len(speeds)} repetitions, fewer than {MIN_REPETITIONS}")
    elif between.low <= 0:
        reasons.append("so noisy that its confidence interval reaches zero")
    if not workload.warmup:
        reasons.append("no warm-up")
    return reasons


def _interval(speeds: NDArray[np.float64], workload: Workload) -> Interval:
    return interval(speeds, LEVEL if workload.until is None else LOOKED_AT_LEVEL)


def _tok_per_s(test: SpeedTest, step_ns: list[list[int]]) -> NDArray[np.float64]:
    total_s = np.array([sum(run) for run in step_ns]) / 1e9
    tok_per_s: NDArray[np.float64] = test.batch * test.counted / total_s
    return tok_per_s


def _phases_ms(
    test: SpeedTest, step_ns: list[list[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Milliseconds of each repetition's prefill, [R], and of its decode steps, [R, steps]."""
    step_ms = np.array(step_ns) / 1e6
    decode_at = step_ms.shape[1] - test.decode_steps
    return step_ms[:, :decode_at].sum(1), step_ms[:, decode_at:]


def _decode_bytes(
    found: Samples, spec: LlamaSpec, precision: Precision, dense: frozenset[str]
) -> tuple[int, int]:
    """Bytes that a decode step must read, and does read, in the middle of the test."""
    test = found.test
    middle = test.depth + test.isl + (test.decode_steps + 1) // 2
    needed = bytes_per_decode_step(spec, precision, middle, test.batch, dense)
    return needed, bytes_where_masked(spec, precision, found.read or middle, test.batch, dense)


def _sd(samples: NDArray[np.float64]) -> float:
    return float(samples.std(ddof=1)) if len(samples) > 1 else 0.0


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99))
    return {"p50": float(p50), "p90": float(p90), "p95": float(p95), "p99": float(p99)}


def _times(values_ms: NDArray[np.float64]) -> Times:
    return Times(mean=float(values_ms.mean()), sd=_sd(values_ms), **_percentiles(values_ms))
