"""`standard`: opset 24 of ONNX itself, for TensorRT ≥ 10.15, TensorRT-RTX and ONNX Runtime.

The cache is updated in place by TensorScatter: past and present are bound at one address. The mask
is explicit and boolean: `is_causal` with `nonpad_kv_seqlen` is accepted and ignored by TensorRT-RTX
1.7, and additive masks of -inf can make NaN of a fully masked row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from llx.graphs.contract import POSITION_IDS
from llx.graphs.linear import linear
from llx.graphs.semantic import Builder, Dialect, Results

Inputs = Sequence[ir.Value]


def _size(value: ir.Value, axis: int) -> int:
    """A dimension that the semantic graph knows as a number."""
    assert value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int)
    return size


def _split_heads(g: Builder, x: ir.Value, head_dim: int) -> ir.Value:
    """[B, T, heads·D] → [B, heads, T, D]."""
    heads = _size(x, -1) // head_dim
    return g.op("Transpose", g.op("Reshape", x, g.ints(0, 0, heads, head_dim)), perm=[0, 2, 1, 3])


def _embedding(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    table, tokens = x
    return g.op("Gather", table, tokens, axis=0)


def _rms_norm(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    # stash_type 1: the statistics are fp32 whatever the graph computes in; fp16's x² overflows
    # at |x| > 255.
    eps = node.attributes["eps"].as_float()
    return g.op("RMSNormalization", *x, axis=-1, epsilon=eps, stash_type=1)


def _rope(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    flat, cos, sin, positions = x
    heads = _size(flat, -1) // (2 * _size(cos, 1))
    return g.op("RotaryEmbedding", flat, cos, sin, positions, num_heads=heads)


def _kv_update(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    cache, new, positions = x
    start = g.once("write_index", lambda: _write_index(g, positions))
    update = _split_heads(g, new, _size(cache, 3))
    return g.op("TensorScatter", cache, update, start, axis=2, mode="linear")


def _write_index(g: Builder, positions: ir.Value) -> ir.Value:
    """Where each row's new positions begin, [B]."""
    return g.op("Gather", positions, g.constant(np.array(0, dtype=np.int64)), axis=1)


def _attention(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    q, k, v, _ = x
    capacity, head_dim = _size(k, 2), _size(k, 3)
    mask = g.once("mask", lambda: _mask(g, g.inputs[POSITION_IDS], capacity))
    heads = _split_heads(g, q, head_dim)
    out = g.op("Attention", heads, k, v, mask)  # [B, H, T, D]
    return g.op("Reshape", g.op("Transpose", out, perm=[0, 2, 1, 3]), g.ints(0, 0, _size(q, -1)))


def _mask(g: Builder, positions: ir.Value, capacity: int) -> ir.Value:
    """A query sees the slots up to its own position: [B, 1, T, S], true where it sees."""
    slots = g.constant(np.arange(capacity, dtype=np.int64))
    own = g.op("Unsqueeze", positions, g.ints(1, 3))  # [B, 1, T, 1]
    return g.op("LessOrEqual", slots, own)


def _pick(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    hidden, index = x
    return g.op("GatherND", hidden, g.op("Unsqueeze", index, g.ints(2)), batch_dims=1)


def _unembed(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    hidden, table = x
    logits = g.op("MatMul", hidden, g.op("Transpose", table, perm=[1, 0]))
    return logits if hidden.dtype == ir.DataType.FLOAT else g.op("Cast", logits, to=1)


def _split(g: Builder, node: ir.Node, x: Inputs) -> Results:
    sizes = node.attributes["split_sizes"].as_ints()
    return g.op_multi("Split", len(sizes), x[0], g.ints(*sizes), axis=-1)


def _silu(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    return g.op("Mul", x[0], g.op("Sigmoid", x[0]))


STANDARD = Dialect(
    name="standard",
    opset=24,
    ops={
        "embedding": _embedding,
        "rms_norm": _rms_norm,
        "rope": _rope,
        "kv_update": _kv_update,
        "attention": _attention,
        "linear": linear,
        "pick": _pick,
        "unembed": _unembed,
        "split": _split,
        "silu": _silu,
        "add": lambda g, node, x: g.op("Add", *x),
        "mul": lambda g, node, x: g.op("Mul", *x),
    },
)
