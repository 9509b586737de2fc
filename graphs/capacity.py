"""Stamp another cache capacity into a lowered graph: no export, and no weight is touched.

A runtime pays for all of the capacity at every step, so an engine is built for the one it needs.
A graph holds it in the shapes of its cache and in the constants `slots` and `capacity`, and nowhere
else: what lies between follows from them when a runtime loads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.graphs.contract import PAST, PRESENT
from llx.graphs.dialects.common import CAPACITY, SLOTS
from llx.graphs.semantic import PRODUCER

ROPE_TABLE = "rope.cos"  # [positions, D/2]: what the graph was exported for


def stamped(graph: Path, capacity: int) -> bytes:
    """A graph of a file with a cache of `capacity` positions; its weights stay where they are."""
    model = ir.load(graph)
    restamp(model, capacity)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def restamp(model: ir.Model, capacity: int) -> None:
    """Give a graph, of whichever dialect, a cache of `capacity` positions. In place.

    It may have been loaded from a file: weights that are external stay so. Raises `BadInput` where
    llx wrote no such graph, or the capacity is more than its RoPE tables hold.
    """
    graph = model.graph
    constants = graph.initializers
    # GroupQueryAttention has no slots to be told: it is given how many are filled.
    slotted = SLOTS in constants or any(n.op_type == "GroupQueryAttention" for n in graph)
    if model.producer_name != PRODUCER or not slotted or ROPE_TABLE not in constants:
        raise BadInput(
            "a cache's capacity can be stamped only into a graph that this version of llx wrote",
            "name a graph of an artifact, or export again with --overwrite",
        )
    most = _sizes(constants[ROPE_TABLE])[0]
    if not isinstance(most, int) or not 1 <= capacity <= most:
        raise BadInput(
            f"a cache of {capacity} positions is outside the graph's 1…{most}",
            f"choose at most {most}, or export again with a larger --context, "
            "where the model knows more positions",
        )
    for value in (*graph.inputs, *graph.outputs):
        if (value.name or "").startswith((f"{PAST}.", f"{PRESENT}.")):
            rows, kv_heads, slots, head_dim = _sizes(value)
            # A delta's present has T there: what is new, however large the cache.
            if isinstance(slots, int):
                value.shape = ir.Shape([rows, kv_heads, capacity, head_dim])
    if SLOTS in constants:
        _set(constants[SLOTS], np.arange(capacity, dtype=np.int64))
    if CAPACITY in constants:
        _set(constants[CAPACITY], np.array([capacity], dtype=np.int64))


def _sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    assert value.shape is not None, f"{value.name} has no shape"
    return list(value.shape)


def _set(constant: ir.Value, array: NDArray[Any]) -> None:
    constant.const_value = ir.Tensor(array, name=constant.name)
    constant.shape = ir.Shape(array.shape)
