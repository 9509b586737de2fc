"""How a linear layer is spelled: dense, or in 8 bits. The same in every dialect.

A quantized layer is explicit: QuantizeLinear and DequantizeLinear stand in the graph with their
scales, and a runtime that has an int8 kernel finds it by them. TensorRT wants it symmetric: int8
with zero points of zero, one scale for an activation, one per output channel for a weight; it
accepts other scales of activations without a word and does not support them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from llx.precision import Linear

if TYPE_CHECKING:
    from llx.graphs.semantic import Builder

Spelling = Callable[["Builder", ir.Value, ir.Value], ir.Value]


def linear(g: Builder, node: ir.Node, x: Sequence[ir.Value]) -> ir.Value:
    """Activation [B, T, in], weight [in, out] and perhaps bias [out] → [B, T, out]."""
    activation, weight, *bias = x
    product = SPELLINGS[g.linear](g, activation, weight)
    return g.op("Add", product, *bias) if bias else product


def _dense(g: Builder, activation: ir.Value, weight: ir.Value) -> ir.Value:
    return g.op("MatMul", activation, weight)


def _int8(g: Builder, activation: ir.Value, weight: ir.Value) -> ir.Value:
    """Both sides in 8 bits: `<module>.weight` is int8, its scales and the input's are weights too.

    Each layer has scales of its own, whatever their values: shared ones have crashed a compiler.
    The zero point is given, since without one QuantizeLinear is uint8.
    """
    module = str(weight.name).removesuffix(".weight")
    assert weight.shape is not None
    assert weight.dtype is not None
    shape = weight.shape.numpy()
    input_scale = g.weight(f"{module}.input_scale", weight.dtype, ())
    weight_scale = g.weight(f"{module}.weight_scale", weight.dtype, shape[1:])
    values = g.weight(f"{module}.weight", ir.DataType.INT8, shape)
    zero = g.constant(np.array(0, np.int8))
    quantized = g.op("QuantizeLinear", activation, input_scale, zero)
    return g.op(
        "MatMul",
        g.op("DequantizeLinear", quantized, input_scale, zero),
        g.op("DequantizeLinear", values, weight_scale, axis=1),
    )


SPELLINGS: dict[Linear, Spelling] = {"dense": _dense, "int8": _int8}
