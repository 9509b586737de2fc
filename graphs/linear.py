"""How a linear layer is spelled: dense, or in 8 or 4 bits; and how a vocabulary's table is.

The same in every dialect.

A quantized layer is explicit: QuantizeLinear and DequantizeLinear stand in the graph with their
scales, and a runtime that has a kernel for it finds it by them. TensorRT wants it symmetric: zero
points of zero, one scale for an activation, one per output channel for a weight in 8 bits; it
accepts other scales of activations without a word and does not support them. A weight-only layer
has no QuantizeLinear: its activations stay what the graph computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from llx.precision import Linear, Precision

if TYPE_CHECKING:
    from llx.graphs.semantic import Builder

Spelling = Callable[["Builder", ir.Value, ir.Value], ir.Value]


def linear(g: Builder, node: ir.Node, x: Sequence[ir.Value]) -> ir.Value:
    """Activation [B, T, in], weight [in, out] and perhaps bias [out] → [B, T, out]."""
    activation, weight, *bias = x
    spelling = SPELLINGS["dense" if module_of(weight) in g.dense else g.precision.linear]
    product = spelling(g, activation, weight)
    return g.op("Add", product, *bias) if bias else product


def _dense(g: Builder, activation: ir.Value, weight: ir.Value) -> ir.Value:
    return g.op("MatMul", activation, weight)


def _as_stored(scale: ir.Value) -> ir.Value:
    return scale


def both_sides(
    g: Builder,
    activation: ir.Value,
    weight: ir.Value,
    scale_of: Callable[[ir.Value], ir.Value] = _as_stored,
) -> ir.Value:
    """Both sides in 8 bits: values of `<module>.weight`, its scales, and the input's.

    `scale_of`: gives a stored scale in the type that the dialect computes in.
    Each layer has scales of its own, whatever their values: shared ones have crashed a compiler.
    The zero point is given, since it tells the type: without one QuantizeLinear is uint8.
    """
    assert weight.dtype is not None
    input_scale = scale_of(g.weight(f"{module_of(weight)}.input_scale", weight.dtype, ()))
    zero = g.constant(np.array(0, stored_type(g.precision).numpy()))
    quantized = g.op("QuantizeLinear", activation, input_scale, zero)
    given = g.op("DequantizeLinear", quantized, input_scale, zero)
    return _weight_only(g, given, weight, scale_of)


def _weight_only(
    g: Builder,
    activation: ir.Value,
    weight: ir.Value,
    scale_of: Callable[[ir.Value], ir.Value] = _as_stored,
) -> ir.Value:
    values, scales, how = stored_weight(g, weight)
    return g.op("MatMul", activation, g.op("DequantizeLinear", values, scale_of(scales), **how))


def stored_weight(g: Builder, weight: ir.Value) -> tuple[ir.Value, ir.Value, dict[str, int]]:
    """Values [in, out] and scales of a quantized weight, and how DequantizeLinear joins them.

    int8 and E4M3 have a scale for each output channel, [out]; int4, which opset 21 brought, one for
    each of them and each block of inputs, [blocks, out].
    """
    inputs, outputs = _shape(weight)
    dtype = stored_type(g.precision)
    if g.precision.linear != "int4":
        return *_stored(g, weight, dtype, (outputs,)), {"axis": 1}
    block = g.precision.block_of(inputs)
    scales = (-(-inputs // block), outputs)
    return *_stored(g, weight, dtype, scales), {"axis": 0, "block_size": block}


def stored_type(precision: Precision) -> ir.DataType:
    """What the values of a quantized weight are."""
    types = {"int4": ir.DataType.INT4, "fp8": ir.DataType.FLOAT8E4M3FN}
    return types.get(precision.linear, ir.DataType.INT8)


def embedding(g: Builder, node: ir.Node, x: Sequence[ir.Value]) -> ir.Value:
    """Table [V, dim] and tokens [B, T] → their rows [B, T, dim]."""
    table, tokens = x
    if g.precision.vocab == "dense":
        return g.op("Gather", table, tokens, axis=0)
    dequantized = g.op("DequantizeLinear", *int8_table(g, table), axis=0)
    return g.op("Gather", dequantized, tokens, axis=0)


def unembed(g: Builder, node: ir.Node, x: Sequence[ir.Value]) -> ir.Value:
    """Hidden [B, K, dim] times the transposed table [V, dim] → logits [B, K, V] in fp32."""
    hidden, table = x
    if g.precision.vocab == "int8":
        table = g.op("DequantizeLinear", *int8_table(g, table), axis=0)
    logits = g.op("MatMul", hidden, g.op("Transpose", table, perm=[1, 0]))
    return logits if hidden.dtype == ir.DataType.FLOAT else g.op("Cast", logits, to=1)


def int8_table(g: Builder, table: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A table of int8 with a scale for each row; a tied one is stored once."""
    name, (rows, dim) = str(table.name), _shape(table)
    dtype = table.dtype
    assert dtype is not None
    return (
        g.once(name, lambda: g.weight(name, ir.DataType.INT8, (rows, dim))),
        g.once(f"{name}_scale", lambda: g.weight(f"{name}_scale", dtype, (rows,))),
    )


def _stored(
    g: Builder, weight: ir.Value, dtype: ir.DataType, scales: Sequence[int]
) -> tuple[ir.Value, ir.Value]:
    """What the weights file holds of a quantized weight: its values, and its scales."""
    assert weight.dtype is not None
    name = f"{module_of(weight)}.weight"
    return g.weight(name, dtype, _shape(weight)), g.weight(f"{name}_scale", weight.dtype, scales)


def module_of(weight: ir.Value) -> str:
    """The module that a weight is of, such as `layers.3.down`."""
    return str(weight.name).removesuffix(".weight")


def _shape(weight: ir.Value) -> tuple[int, ...]:
    assert weight.shape is not None
    return weight.shape.numpy()


SPELLINGS: dict[Linear, Spelling] = {
    "dense": _dense,
    "int8": both_sides,
    "int8-wo": _weight_only,
    "int4": _weight_only,
    "fp8": both_sides,
}
