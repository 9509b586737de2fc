"""Rotary embedding as OpenVINO's CPU plugin looks for it, which then makes one node of it.

The dialect turns a head by one product with the halves swapped and one with the sine of either
sign: x · (cos, cos) + (x₂, x₁) · (-sin, sin). The plugin knows (-x₂, x₁) · (sin, sin), of heads
[B, H, T, D] (`RoPEFusionGPTNEOX`). It is the same sum of the same products.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13

from llx.bench.sessions.openvino_match import (
    inputs,
    ints,
    require,
    require_constant,
    require_same,
    sizes_of,
)

Tables = dict[str, ov.Node]
"""Cosines and sines that the layers share, [B, 1, T, D], by the name of what they are made of."""


def rotated(value: ov.Output, tables: Tables) -> ov.Output:
    """Heads [B, H, T, D] turned by the plugin's own; as they are, where the graph turns none."""
    try:
        return _turned(*_spelled(value), tables)
    except ValueError:  # `Unlike`, or of its kind
        return value


def _spelled(value: ov.Output) -> tuple[ov.Output, ov.Output, ov.Output]:
    """What is turned, [B, T, H, D], by which cosines and sines of half a head."""
    _, heads_count, _, head_dim = sizes_of(value)
    apart, order = inputs(value, "Transpose")
    require_constant(order, ints(0, 2, 1, 3))
    flat, shape = inputs(apart, "Reshape")
    require_constant(shape, ints(0, 0, heads_count, head_dim))
    turned, shape = inputs(flat, "Reshape")
    require_constant(shape, ints(0, 0, heads_count * head_dim))
    direct, crossed = inputs(turned, "Add")
    heads, cos = inputs(direct, "Multiply")
    swapped, signed = inputs(crossed, "Multiply")
    second, first = inputs(swapped, "Concat", axis=-1)
    for half, index in ((first, 0), (second, 1)):
        of, axis, parts = inputs(half, "VariadicSplit")
        require_same((of, heads))
        require(half.get_index() == index)
        require_constant(axis, np.array(-1))
        require_constant(parts, ints(head_dim // 2, head_dim // 2))
    negative, sin = inputs(signed, "Concat", axis=-1)
    require_same((inputs(negative, "Negative")[0], sin))
    require(sizes_of(heads)[2:] == [heads_count, head_dim])
    require(sizes_of(cos)[2:] == [1, head_dim] and sizes_of(sin)[2:] == [1, head_dim // 2])
    return heads, cos, sin


def _turned(heads: ov.Output, cos: ov.Output, sin: ov.Output, tables: Tables) -> ov.Output:
    dtype, half = heads.get_element_type().to_dtype(), sizes_of(heads)[3] // 2
    x = opset13.transpose(heads, ints(0, 2, 1, 3))
    first, second = opset13.variadic_split(x, np.int64(3), ints(half, half)).outputs()
    crossed = opset13.concat([opset13.multiply(second, np.array(-1, dtype)), first], -1)
    direct = opset13.multiply(x, _table([cos], tables))
    return opset13.add(direct, opset13.multiply(crossed, _table([sin, sin], tables))).output(0)


def _table(parts: list[ov.Output], tables: Tables) -> ov.Node:
    """Cosines or sines of heads, [B, 1, T, D], put together of parts [B, T, 1, …]."""
    name = parts[0].get_node().get_friendly_name()
    if name not in tables:
        tables[name] = opset13.transpose(opset13.concat(parts, 3), ints(0, 2, 1, 3))
    return tables[name]
