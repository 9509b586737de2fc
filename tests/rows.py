"""Rows of speed from a session, in this process: the samples of a workload, and what they show."""

from __future__ import annotations

from llx.bench.speed.rows import narrow_enough, speed_row
from llx.bench.speed.samples import OpenSession, Workload, samples
from llx.llama.spec import LlamaSpec
from llx.precision import Precision
from llx.result import SpeedRow


def measure(
    open_session: OpenSession, workload: Workload, spec: LlamaSpec, precision: Precision
) -> list[SpeedRow]:
    found = samples(open_session, workload, enough=narrow_enough(workload))
    return [speed_row(one, workload, spec, precision) for one in found]
