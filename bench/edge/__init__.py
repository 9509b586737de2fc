"""Measuring where llx is not installed: what runs on a Jetson, and its result here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.edge.collect import checked as checked
    from llx.bench.edge.collect import collect_result as collect_result

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "collect": "checked collect_result",
    },
)
