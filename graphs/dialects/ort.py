"""`ort`: ONNX Runtime's own ops (`com.microsoft`) for its CPU kernels, in fp32 and in integers.

One GroupQueryAttention does what `standard` spells in seven nodes: it turns queries and keys, puts
keys and values into the shared buffer that past and present are, and reads the filled slots alone.
A CPU has no kernels for fp16 or bf16: the weights stay in the type that they are stored in, and
what is computed and cached is fp32.

Inputs of W8A8 are uint8 around 128 and weights int8, as VNNI and AMX take them. A CPU with AVX2 and
no VNNI adds two such products in 16 bits, and saturates there: the session asks for `EXACT`. ONNX
Runtime computes what hangs on constants alone once, as it loads. fp8 has no kernels: it is spelled
as in `standard`, in fp32.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from llx.graphs.contract import POSITION_IDS
from llx.graphs.dialects.common import COMMON, Inputs, scale_of, size, split, window_of
from llx.graphs.dialects.standard import STANDARD
from llx.graphs.linear import both_sides, int8_table, module_of, stored_weight
from llx.graphs.semantic import MICROSOFT, Builder, Dialect, Results

INT32, UINT8, FLOAT = ir.DataType.INT32, ir.DataType.UINT8, ir.DataType.FLOAT
ZERO = 128  # what stands for 0 in eight unsigned bits
# A setting of a session: without VNNI, weights become uint8, whose products MLAS adds exactly.
EXACT = "session.x64quantprecision"
INTEGERS = 4  # MatMulNBits' accuracy level that rounds a block of inputs to int8
BLOCKS = (32, 16)  # of a table's rows; smaller ones follow the inputs closer, and cost more


def _wide(g: Builder, stored: ir.Value) -> ir.Value:
    """What is stored in fp16 or bf16, in fp32."""
    if stored.dtype == FLOAT:
        return stored
    wide = g.once(f"{stored.name}/wide", lambda: g.op("Cast", stored, to=FLOAT))
    wide.shape, wide.type = stored.shape, ir.TensorType(FLOAT)
    return wide


def _unsigned(g: Builder, values: ir.Value) -> ir.Value:
    """int8 around 0 as uint8 around 128: the upper bit turned."""
    return g.op("BitwiseXor", g.op("Cast", values, to=UINT8), _zero(g))


def _zero(g: Builder) -> ir.Value:
    return g.constant(np.array(ZERO, np.uint8))


def _rms_norm(g: Builder, node: ir.Node, x: Inputs) -> ir.Value | Results:
    return STANDARD.ops["rms_norm"](g, node, [x[0], _wide(g, x[1])])


def groups(head_dim: int) -> bool:
    """Whether GroupQueryAttention takes heads of this size; others are spelled as in `standard`."""
    return head_dim % 16 == 0


def _split(g: Builder, node: ir.Node, x: Inputs) -> Results:
    """Queries, keys and values stay together, as GroupQueryAttention takes them."""
    (use, *_) = node.outputs[0].uses()
    user = use.node
    whole = user.op_type == "rope" and _turns(user)
    if whole or (user.op_type == "attention" and groups(_cached_dim(user))):
        return [x[0]] * len(node.outputs)
    return split(g, node, x)


def _rope(g: Builder, node: ir.Node, x: Inputs) -> ir.Value | Results:
    flat, cos, sin, positions = x
    if _turns(node):
        return flat
    return STANDARD.ops["rope"](g, node, [flat, _wide(g, cos), _wide(g, sin), positions])


def _turns(rope: ir.Node) -> bool:
    """Whether GroupQueryAttention itself turns queries and keys: the whole of each head."""
    table = rope.inputs[1]
    assert table is not None
    return "head_dim" not in rope.attributes and groups(2 * size(table, 1))


def _cached_dim(attention: ir.Node) -> int:
    """The size of a head, D."""
    keys = attention.inputs[1]
    assert keys is not None
    return size(keys, 3)


def _kv_update(g: Builder, node: ir.Node, x: Inputs) -> ir.Value | Results:
    """The cache after the step, which the layer's one node gives at the place that it is read."""
    if not groups(size(x[0], 3)):
        return STANDARD.ops["kv_update"](g, node, x)
    (use,) = (use for use in node.outputs[0].uses() if use.node.op_type == "attention")
    return _attended(g, use.node)[use.idx]


def _attention(g: Builder, node: ir.Node, x: Inputs) -> ir.Value | Results:
    if not groups(size(x[1], 3)):
        return STANDARD.ops["attention"](g, node, x)
    return _attended(g, node)[0]


def _attended(g: Builder, attention: ir.Node) -> Results:
    """Output, keys and values of the layer's GroupQueryAttention: made where it is first needed."""
    output = attention.outputs[0]
    if output not in g.here:
        g.here[output] = _group_query_attention(g, attention)
    made = g.here[output].producer()
    assert made is not None
    return made.outputs


def _group_query_attention(g: Builder, attention: ir.Node) -> ir.Value:
    q, keys, values, _ = attention.inputs
    assert q is not None
    updates = [_maker(value) for value in (keys, values)]
    past_keys, past_values = (g.here[_given(update, 0)] for update in updates)
    rope = _maker(q)
    turns = rope.op_type == "rope" and _turns(rope)
    # What stands before the turn where GroupQueryAttention makes it: q and k, with v or alone.
    queries = g.here[_given(rope, 0) if turns else q]
    new_keys, new_values = (g.here[_given(update, 1)] for update in updates)
    whole = queries is new_values
    last = g.once("last", lambda: _last(g, g.inputs[POSITION_IDS]))
    filled = g.once("filled", lambda: _filled(g, last))
    tables = [_wide(g, g.here[_given(rope, i)]) for i in (1, 2)] if turns else []
    own: dict[str, int | float] = {"do_rotary": int(turns)}
    if (window := window_of(attention)) is not None:
        own["local_window_size"] = window
    if "scale" in attention.attributes:
        own["scale"] = scale_of(attention, size(past_keys, 3))
    return g.op_multi(
        "GroupQueryAttention",
        3,
        *(queries, None if whole else new_keys, None if whole else new_values),
        *(past_keys, past_values, last, filled, *tables),
        domain=MICROSOFT,
        num_heads=size(q, -1) // size(past_keys, 3),
        kv_num_heads=size(past_keys, 1),
        **own,
    )[0]


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _maker(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    assert node is not None
    return node


def _last(g: Builder, positions: ir.Value) -> ir.Value:
    """Each row's last position, [B]: what GroupQueryAttention calls `seqlens_k`."""
    last = g.op("Gather", positions, g.constant(np.array(-1, dtype=np.int64)), axis=1)
    return g.op("Cast", last, to=INT32)


def _filled(g: Builder, last: ir.Value) -> ir.Value:
    """How many slots the longest row has filled after the step, a scalar."""
    one = g.constant(np.array(1, dtype=np.int32))
    return g.op("Add", g.op("ReduceMax", last, keepdims=0), one)


def _linear(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    activation, weight, *bias = x
    if module_of(weight) in g.dense or g.precision.linear == "dense":
        product = g.op("MatMul", activation, _wide(g, weight))
    elif g.precision.linear == "int8":
        product = _int8(g, activation, weight)
    elif g.precision.linear == "fp8":
        product = both_sides(g, activation, weight, partial(_wide, g))
    else:
        values, scale, how = stored_weight(g, weight)
        dequantized = g.op("DequantizeLinear", values, _wide(g, scale), **how)
        product = g.op("MatMul", activation, dequantized)  # which become one MatMulNBits
    return g.op("Add", product, *(_wide(g, value) for value in bias)) if bias else product


def _int8(g: Builder, activation: ir.Value, weight: ir.Value) -> ir.Value:
    """Integers by integers, as `standard` says with its QuantizeLinear and DequantizeLinear."""
    values, scale, _ = stored_weight(g, weight)
    assert weight.dtype is not None
    input_scale = _wide(g, g.weight(f"{module_of(weight)}.input_scale", weight.dtype, ()))
    quantized = g.op("QuantizeLinear", activation, input_scale, _zero(g))
    return g.op(
        "MatMulIntegerToFloat",
        *(quantized, values, input_scale, _wide(g, scale), _zero(g)),
        domain=MICROSOFT,
    )


def _embedding(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    """The rows of the tokens alone are made fp32, and not the table."""
    table, tokens = x
    if g.precision.vocab == "dense":
        rows = g.op("Gather", table, tokens, axis=0)
        return rows if table.dtype == FLOAT else g.op("Cast", rows, to=FLOAT)
    values, scales = int8_table(g, table)
    rows = g.op("Cast", g.op("Gather", values, tokens, axis=0), to=FLOAT)
    scale = g.op("Unsqueeze", g.op("Gather", _wide(g, scales), tokens, axis=0), g.ints(2))
    return g.op("Mul", rows, scale)


def table_block(dim: int) -> int | None:
    """How many inputs of the logits share a rounding to int8; None where none divides them."""
    return next((block for block in BLOCKS if dim % block == 0), None)


def _unembed(g: Builder, node: ir.Node, x: Inputs) -> ir.Value:
    hidden, table = x
    if g.precision.vocab == "dense":
        return g.op("MatMul", hidden, g.op("Transpose", _wide(g, table), perm=[1, 0]))
    values, scales = int8_table(g, table)
    rows, dim = size(table, 0), size(table, 1)
    block = table_block(dim)
    if block is None:
        # Where a session asks for `EXACT`, ONNX Runtime would give it one zero for all rows.
        zeros = g.op("Expand", g.constant(np.array(0, np.int8)), g.ints(rows))
        dequantized = g.op("DequantizeLinear", values, _wide(g, scales), zeros, axis=0)
        return g.op("MatMul", hidden, g.op("Transpose", dequantized, perm=[1, 0]))
    blocks = dim // block
    each = g.op("Expand", g.op("Unsqueeze", _wide(g, scales), g.ints(1)), g.ints(rows, blocks))
    return g.op(
        "MatMulNBits",
        hidden,
        g.op("Reshape", _unsigned(g, values), g.ints(rows, blocks, block)),
        g.op("Reshape", each, g.ints(-1)),
        domain=MICROSOFT,
        **{"K": dim, "N": rows, "bits": 8, "block_size": block, "accuracy_level": INTEGERS},
    )


ORT = Dialect(
    name="ort",
    opset=24,
    ir_version=11,
    cache="in-place",
    domains={MICROSOFT: 1},
    compute="fp32",
    ops={
        **COMMON,
        "rms_norm": _rms_norm,
        "split": _split,
        "rope": _rope,
        "kv_update": _kv_update,
        "attention": _attention,
        "linear": _linear,
        "embedding": _embedding,
        "unembed": _unembed,
    },
)
