"""The semantic graph: one block traced with PyTorch, stamped for every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.exporter.graph.stamp import stamped_trace as stamped_trace

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "stamp": "stamped_trace",
    },
)
