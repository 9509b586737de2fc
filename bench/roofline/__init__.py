"""What a step must read and compute, what this machine can do, and predictions from both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.roofline.ceiling import CeilingJob as CeilingJob
    from llx.bench.roofline.ceiling import find_ceiling as find_ceiling
    from llx.bench.roofline.plan import plans_for as plans_for
    from llx.bench.roofline.plan import sizes_for as sizes_for
    from llx.bench.roofline.work import Work as Work
    from llx.bench.roofline.work import bytes_per_decode_step as bytes_per_decode_step
    from llx.bench.roofline.work import bytes_where_masked as bytes_where_masked
    from llx.bench.roofline.work import held_to as held_to
    from llx.bench.roofline.work import prefill_work as prefill_work
    from llx.bench.roofline.work import step_work as step_work

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "ceiling": "CeilingJob find_ceiling",
        "plan": "plans_for sizes_for",
        "work": "Work bytes_per_decode_step bytes_where_masked held_to prefill_work step_work",
    },
)
