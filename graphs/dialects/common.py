"""Lowerings that the dialects share: what ONNX has spelled alike since opset 13."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from llx.graphs.linear import embedding, linear, unembed
from llx.graphs.semantic import Builder, Lowering, Results

Inputs = Sequence[ir.Value]
# The constants that hold the cache's capacity S, by the names that `restamp` finds them by.
SLOTS = "slots"  # 0 … S-1
CAPACITY = "capacity"  # S


def size(value: ir.Value, axis: int) -> int:
    """A dimension that the semantic graph knows as a number."""
    assert value.shape is not None
    dim = value.shape[axis]
    assert isinstance(dim, int)
    return dim


def split_heads(g: Builder, x: ir.Value, head_dim: int) -> ir.Value:
    """[B, T, heads·D] → [B, heads, T, D]."""
    heads = size(x, -1) // head_dim
    return g.op("Transpose", g.op("Reshape", x, g.ints(0, 0, heads, head_dim)), perm=[0, 2, 1, 3])


def merge_heads(g: Builder, x: ir.Value, dim: int) -> ir.Value:
    """[B, heads, T, D] → [B, T, heads·D]."""
    return g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 1, 3]), g.ints(0, 0, dim))


def each_head(
    g: Builder, x: ir.Value, size_of_norm: int, norm: Callable[[ir.Value], ir.Value]
) -> ir.Value:
    """A norm over the last axis of [B, T, dim]; over each head's part where it is of head size."""
    dim = size(x, -1)
    if dim == size_of_norm:
        return norm(x)
    heads = g.op("Reshape", x, g.ints(0, 0, dim // size_of_norm, size_of_norm))
    heads.type = x.type
    return g.op("Reshape", norm(heads), g.ints(0, 0, dim))


def window_of(attention: ir.Node) -> int | None:
    """How many positions a query sees, where it is not all of them."""
    window = attention.attributes.get("window")
    return window.as_int() if window else None


def mask_of(g: Builder, attention: ir.Node, make: Callable[[int | None], ir.Value]) -> ir.Value:
    """The mask of an attention, made of its window: all layers that have that one share it."""
    window = window_of(attention)
    return g.once("mask" if window is None else f"mask.{window}", lambda: make(window))


def scale_of(attention: ir.Node, head_dim: int) -> float:
    """What the scores are multiplied by: 1/√D, or the model's own."""
    scale = attention.attributes.get("scale")
    return scale.as_float() if scale else head_dim**-0.5


def seen(g: Builder, key: ir.Value, own: ir.Value, window: int | None) -> ir.Value:
    """Whether a query at `own` sees a `key`: positions both, of shapes that broadcast."""
    causal = g.op("LessOrEqual", key, own)
    if window is None:
        return causal
    return g.op("And", causal, g.op("Less", g.op("Add", own, g.ints(-window)), key))


def slots(g: Builder, capacity: int) -> ir.Value:
    """The cache's slots, [S]."""
    return g.named_constant(SLOTS, np.arange(capacity, dtype=np.int64))


def _pick(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    hidden, index = x
    return g.op("GatherND", hidden, g.op("Unsqueeze", index, g.ints(2)), batch_dims=1)


def split(g: Builder, node: ir.Node, x: Inputs) -> Results:
    """[B, T, a+b+…] → its parts along the last axis."""
    sizes = node.attributes["split_sizes"].as_ints()
    return g.op_multi("Split", len(sizes), x[0], g.ints(*sizes), axis=-1)


def _scale(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    assert x[0].dtype is not None
    factor = node.attributes["factor"].as_float()
    return g.op("Mul", x[0], g.constant(np.array(factor).astype(x[0].dtype.numpy())))


def _silu(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    return g.op("Mul", x[0], g.op("Sigmoid", x[0]))


COMMON: Mapping[str, Lowering] = {
    "embedding": embedding,
    "linear": linear,
    "pick": _pick,
    "unembed": unembed,
    "split": split,
    "silu": _silu,
    "scale": _scale,
    "add": lambda g, node, x: g.op("Add", *x),
    "mul": lambda g, node, x: g.op("Mul", *x),
}
