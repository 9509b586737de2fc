"""`standard`: opset 24 of ONNX itself, for TensorRT ≥ 10.15, TensorRT-RTX and ONNX Runtime.

The cache is updated in place by TensorScatter: past and present are bound at one address. The mask
is explicit and boolean: `is_causal` with `nonpad_kv_seqlen` is accepted and ignored by TensorRT-RTX
1.7, and additive masks of -inf can make NaN of a fully masked row.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from llx.graphs.contract import POSITION_IDS
from llx.graphs.dialects.common import (
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


def _rms_norm(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    # stash_type 1: the statistics are fp32 whatever the graph computes in; fp16's x² overflows
    # at |x| > 255.
    hidden, weight = x
    eps = node.attributes["eps"].as_float()
    return each_head(
        *(g, hidden, size(weight, 0)),
        lambda part: g.op("RMSNormalization", part, weight, axis=-1, epsilon=eps, stash_type=1),
    )


def _rope(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    flat, cos, sin, positions = x
    rotated = 2 * size(cos, 1)
    head_dim = node.attributes.get_int("head_dim", rotated)
    part = {} if head_dim == rotated else {"rotary_embedding_dim": rotated}
    heads = size(flat, -1) // head_dim
    return g.op("RotaryEmbedding", flat, cos, sin, positions, num_heads=heads, **part)


def _kv_update(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    cache, new, positions = x
    start = g.once("write_index", lambda: _write_index(g, positions))
    update = split_heads(g, new, size(cache, 3))
    return g.op("TensorScatter", cache, update, start, axis=2, mode="linear")


def _write_index(g: Builder, positions: ir.Value) -> ir.Value:
    """Where each row's new positions begin, [B]."""
    return g.op("Gather", positions, g.constant(np.array(0, dtype=np.int64)), axis=1)


def _attention(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    q, k, v, _ = x
    capacity, head_dim = size(k, 2), size(k, 3)
    mask = mask_of(g, node, partial(_mask, g, g.inputs[POSITION_IDS], capacity))
    heads = split_heads(g, q, head_dim)
    own = {"scale": scale_of(node, head_dim)} if "scale" in node.attributes else {}
    return merge_heads(g, g.op("Attention", heads, k, v, mask, **own), size(q, -1))


def _mask(g: Builder, positions: ir.Value, capacity: int, window: int | None) -> ir.Value:
    """A query sees the slots up to its own position: [B, 1, T, S], true where it sees."""
    own = g.op("Unsqueeze", positions, g.ints(1, 3))  # [B, 1, T, 1]
    return seen(g, slots(g, capacity), own, window)


STANDARD = Dialect(
    name="standard",
    opset=24,
    ir_version=11,
    cache="in-place",
    ops={
        **COMMON,
        "rms_norm": _rms_norm,
        "rope": _rope,
        "kv_update": _kv_update,
        "attention": _attention,
    },
)
