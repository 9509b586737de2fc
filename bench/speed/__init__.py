"""Speed: a session's steps, their raw samples, whether they are valid, and rows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.speed.rows import MIN_REPETITIONS as MIN_REPETITIONS
    from llx.bench.speed.rows import speed_row as speed_row
    from llx.bench.speed.samples import Samples as Samples
    from llx.bench.speed.samples import SpeedTest as SpeedTest
    from llx.bench.speed.samples import Workload as Workload
    from llx.bench.speed.samples import all_samples as all_samples
    from llx.bench.speed.steps import chunks as chunks
    from llx.bench.speed.steps import decode_step as decode_step
    from llx.bench.speed.steps import prefill as prefill
    from llx.bench.speed.steps import prefill_logits as prefill_logits
    from llx.bench.speed.validity import Witness as Witness

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "rows": "MIN_REPETITIONS speed_row",
        "samples": "Samples SpeedTest Workload all_samples",
        "steps": "chunks decode_step prefill prefill_logits",
        "validity": "Witness",
    },
)
