"""`primitive`: opset 19 of ONNX itself, all decomposed, for TensorRT 10.3 to 10.13.

TensorRT knows Attention since 10.14, RotaryEmbedding, RMSNormalization and TensorScatter since
10.15. Opset 19 is the lowest that quantizes fp16 activations; it is ONNX 1.14's, which the parser
is built on since TensorRT 9.0. A graph in int4 is of opset 21, which brought that type and blocks:
TensorRT's parser takes both since 10.0, and knows opset 21 in every version from 10.3 on.

The cache is a *delta*: the graph reads the past and gives the new keys and values alone, which the
session writes into their slots. The two never become one tensor, as a Concat would read and write
the whole cache at every step: only the scores against them do, a token's D/G times smaller.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from llx.graphs.dialects.common import (
    CAPACITY,
    COMMON,
    Inputs,
    each_head,
    mask_of,
    merge_heads,
    scale_of,
    seen,
    size,
    slots,
    split_heads,
)
from llx.graphs.semantic import Builder, Dialect

# Of a score that a query may not see: fp16's lowest, finite in every type that a runtime computes
# in, and far enough below all others that its weight is exactly zero.
UNSEEN = np.array(-65504, dtype=np.float32)
FLOAT = ir.DataType.FLOAT
END = np.iinfo(np.int64).max  # of a slice
# A position later than any. OpenVINO computes int64 in 32 bits, where END would be less than all.
LATER = 1 << 30


def _cast(g: Builder, x: ir.Value, given: ir.DataType, wanted: ir.DataType) -> ir.Value:
    """X of a given type in another; itself where they are one."""
    return x if given == wanted else g.op("Cast", x, to=wanted)


def _compute(x: ir.Value) -> ir.DataType:
    """The type of an activation."""
    assert x.dtype is not None
    return x.dtype


def _rms_norm(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    # The statistics are fp32 whatever the graph computes in: fp16's x² overflows at |x| > 255.
    hidden, weight = x
    eps = g.constant(np.array(node.attributes["eps"].as_float(), dtype=np.float32))
    return each_head(g, hidden, size(weight, 0), lambda part: _normed(g, part, weight, eps))


def _normed(g: Builder, hidden: ir.Value, weight: ir.Value, eps: ir.Value) -> ir.Value:
    wide = _cast(g, hidden, _compute(hidden), FLOAT)
    square = g.op("Pow", wide, g.constant(np.array(2, dtype=np.float32)))
    mean = g.op("ReduceMean", square, g.ints(-1), keepdims=1)
    normed = g.op("Div", wide, g.op("Sqrt", g.op("Add", mean, eps)))
    return g.op("Mul", _cast(g, normed, FLOAT, _compute(hidden)), weight)


def _rope(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    flat, cos_table, sin_table, positions = x
    half = size(cos_table, 1)
    cos = g.once("cos", lambda: _both_halves(g, cos_table, positions, turned=False))
    sin = g.once("sin", lambda: _both_halves(g, sin_table, positions, turned=True))
    head_dim = node.attributes.get_int("head_dim", 2 * half)
    heads = g.op("Reshape", flat, g.ints(0, 0, size(flat, -1) // head_dim, head_dim))
    kept = []
    if head_dim > 2 * half:
        sizes = (2 * half, head_dim - 2 * half)
        heads, *kept = g.op_multi("Split", 2, heads, g.ints(*sizes), axis=-1)
    first, second = g.op_multi("Split", 2, heads, g.ints(half, half), axis=-1)
    swapped = g.op("Concat", second, first, axis=-1)
    rotated = g.op("Add", g.op("Mul", heads, cos), g.op("Mul", swapped, sin))
    if kept:
        rotated = g.op("Concat", rotated, *kept, axis=-1)
    return g.op("Reshape", rotated, g.ints(0, 0, size(flat, -1)))


def _both_halves(g: Builder, table: ir.Value, positions: ir.Value, turned: bool) -> ir.Value:
    """A table's rows at the positions, for both halves of a head, [B, T, 1, D].

    `turned`: negative for the first half, which loses what the second has times the sine.
    """
    row = g.op("Unsqueeze", g.op("Gather", table, positions, axis=0), g.ints(2))
    return g.op("Concat", g.op("Neg", row) if turned else row, row, axis=-1)


def _kv_update(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    cache, new, _ = x
    present = split_heads(g, new, size(cache, 3))
    present.shape = ir.Shape(["B", size(cache, 1), "T", size(cache, 3)])
    return present


def _attention(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    """Grouped-query attention over past and new, [B, T, H·D].

    The G = H / Hkv queries of a KV head are one matrix of G·T rows, so no key or value is repeated.
    """
    q, k, v, positions = x
    past_k, past_v = (_past_of(g, present) for present in node.inputs[1:3])
    kv_heads, capacity, head_dim = (size(past_k, axis) for axis in (1, 2, 3))
    heads = size(q, -1) // head_dim
    # Scaled before the product, which fp16 might not hold.
    scale = g.constant(np.array(scale_of(node, head_dim)).astype(_compute(q).numpy()))
    rows = g.op("Mul", split_heads(g, q, head_dim), scale)  # [B, H, T, D]
    rows = g.op("Reshape", rows, g.ints(0, kv_heads, -1, head_dim))  # [B, Hkv, G·T, D]
    scores = [_product(g, rows, keys) for keys in (past_k, k)]
    mask = mask_of(g, node, partial(_mask, g, positions, capacity, heads // kv_heads))
    weights = _softmax(g, g.op("Concat", *scores, axis=-1), mask, _compute(q))
    border = g.named_constant(CAPACITY, np.array([capacity], dtype=np.int64))
    of_past = g.op("Slice", weights, g.ints(0), border, g.ints(3))  # [B, Hkv, G·T, S]
    of_new = g.op("Slice", weights, border, g.ints(END), g.ints(3))  # [B, Hkv, G·T, T]
    out = g.op("Add", g.op("MatMul", of_past, past_v), g.op("MatMul", of_new, v))
    return merge_heads(g, g.op("Reshape", out, g.ints(0, heads, -1, head_dim)), size(q, -1))


def _past_of(g: Builder, present: ir.Value | None) -> ir.Value:
    """The cache that the semantic graph's `kv_update` would have made `present` of."""
    update = present.producer() if present else None
    assert update is not None
    assert update.op_type == "kv_update"
    past = update.inputs[0]
    assert past is not None
    assert past.name is not None
    return g.inputs[past.name]


def _product(g: Builder, rows: ir.Value, keys: ir.Value) -> ir.Value:
    """Queries [B, Hkv, G·T, D] times keys [B, Hkv, N, D] → [B, Hkv, G·T, N]."""
    return g.op("MatMul", rows, g.op("Transpose", keys, perm=[0, 1, 3, 2]))


def _softmax(g: Builder, scores: ir.Value, mask: ir.Value, compute: ir.DataType) -> ir.Value:
    """Weights of the scores that the mask lets through; exactly zero for the others.

    In fp32: no runtime says in what it sums an fp16 softmax over S scores, which stalls at 2048 in
    fp16. The casts cost little even where no compiler makes one kernel of cast, mask and softmax:
    a token's scores are G/D of the keys that they came from.
    """
    wide = _cast(g, scores, compute, FLOAT)
    seen = g.op("Where", mask, wide, g.constant(UNSEEN))
    return _cast(g, g.op("Softmax", seen, axis=-1), FLOAT, compute)


def _mask(
    g: Builder, positions: ir.Value, capacity: int, groups: int, window: int | None
) -> ir.Value:
    """What a query sees, [B, 1, G·T, S + T]: past before the row's first position, new up to own.

    A slot is a position; one that the step's first position has not passed holds a pad's or an
    earlier prompt's leavings, and counts as later than any query.
    """
    first = g.op("Gather", positions, g.ints(0), axis=1)  # [B, 1]
    past = slots(g, capacity)
    past = g.op("Where", g.op("Less", past, first), past, g.ints(LATER))  # [B, S]
    key = g.op("Concat", past, positions, axis=1)
    own = g.op("Tile", positions, g.ints(1, groups))  # [B, G·T]
    key, own = g.op("Unsqueeze", key, g.ints(1, 2)), g.op("Unsqueeze", own, g.ints(1, 3))
    return seen(g, key, own, window)


PRIMITIVE = Dialect(
    name="primitive",
    opset=19,
    ir_version=9,
    cache="delta",
    ops={
        **COMMON,
        "rms_norm": _rms_norm,
        "rope": _rope,
        "kv_update": _kv_update,
        "attention": _attention,
    },
)
