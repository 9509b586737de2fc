"""An artifact's `primitive` graph as OpenVINO's CPU plugin runs it fastest: its cache its own.

The graph takes the whole cache and gives what is new. Here each layer's past becomes a state that
holds what was written and no more, and its attention, which the dialect decomposes, becomes one
ScaledDotProductAttention: of that and both states the plugin makes a single node
(`StatefulSDPAFusion`), which writes in place and reads what is filled. An attention is replaced
only where it is, op by op and constant by constant, what `llx.graphs.dialects.primitive` spells:
any other graph is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset6, opset13
from openvino.op import Parameter
from openvino.op.util import Variable, VariableInfo

from llx.bench.sessions.openvino_match import (
    inputs,
    ints,
    only_user,
    require,
    require_constant,
    require_same,
    sizes_of,
    sliced,
    type_of,
    uncast,
    value_of,
)
from llx.bench.sessions.openvino_rope import Tables, rotated
from llx.graphs.contract import (
    INPUT_IDS,
    LOGIT_INDEX,
    LOGITS,
    PAST,
    POSITION_IDS,
    PRESENT,
    GraphContract,
)
from llx.graphs.dialects.primitive import END, LATER, UNSEEN

SLOTS = "slots"  # the position that each slot of the states holds, [B, written + T]
SAME = 1e-3  # a factor of scores that fp16 or bf16 rounded, and nothing else
ROW_OF = "row_of"  # whose row of the states each row reads, [B]: its own


@dataclass(frozen=True)
class Attention:
    """A layer's attention in the graph: what it reads, and the value that it gives.

    q [B, H, T, D], unscaled; new keys and values [B, Hkv, T, D]; `out` [B, H, T, D]. `scale`: what
    scores are multiplied by; `window`: how many positions a query sees, where it is not all.
    """

    q: ov.Output
    keys: ov.Output
    values: ov.Output
    out: ov.Output
    scale: float
    window: int | None


def stateful(model: ov.Model, contract: GraphContract) -> ov.Model:
    """The graph with its cache as states: it takes `SLOTS` and `ROW_OF` in the cache's place.

    A query sees the slots that hold its own position or an earlier one, within the layer's window.
    The graph given is changed.
    Raises `ValueError` where the graph's attention is another than the dialect's.
    """
    ids, positions, index = (_parameter(model, n) for n in (INPUT_IDS, POSITION_IDS, LOGIT_INDEX))
    slots = _input(SLOTS, ov.Type.i64, [-1, -1])
    row_of = _input(ROW_OF, ov.Type.i32, [-1])
    rows = opset13.gather(opset13.shape_of(ids), ints(0), np.int64(0))
    sinks: list[ov.Node] = []
    tables: Tables = {}
    found = [_attention(model, layer, contract) for layer in range(contract.layers)]
    masks = {window: _mask(slots, positions, window) for window in {one.window for one in found}}
    for layer, one in enumerate(found):
        turned = (rotated(one.q, tables), rotated(one.keys, tables), one.values)
        q, keys, values = (_wide(value) for value in turned)
        groups = sizes_of(one.q)[1] // contract.kv_heads
        present = [
            _grown(new, f"{layer}.{part}", rows, row_of, contract, groups, sinks)
            for new, part in ((keys, "key"), (values, "value"))
        ]
        more = np.float32(one.scale / contract.head_dim**-0.5)
        q = q if abs(more - 1) < SAME else opset13.multiply(q, more).output(0)
        attention = opset13.scaled_dot_product_attention(q, *present, masks[one.window])
        out = type_of(one.out)
        one.out.replace(
            (attention if out == ov.Type.f32 else opset13.convert(attention, out)).output(0)
        )
    logits = [r for r in model.get_results() if LOGITS in r.input_value(0).get_names()]
    return ov.Model(logits, sinks, [ids, positions, index, slots, row_of], "llx")


def _parameter(model: ov.Model, name: str) -> Any:
    return model.input(name).get_node()


def _input(name: str, dtype: ov.Type, shape: list[int]) -> Any:
    made = Parameter(dtype, ov.PartialShape(shape))
    made.set_friendly_name(name)
    made.output(0).set_names({name})
    return made


def _mask(slots: ov.Node, positions: ov.Node, window: int | None) -> ov.Node:
    """What is added to the scores, [B, 1, T, written + T]: 0 where a query sees a slot."""
    own = opset13.unsqueeze(positions, ints(1, 3))
    key = opset13.unsqueeze(slots, ints(1, 2))
    seen = opset13.less_equal(key, own)
    if window is not None:
        near = opset13.less(opset13.add(own, ints(-window)), key)
        seen = opset13.logical_and(seen, near)
    return opset13.select(seen, np.float32(0), UNSEEN)


def _wide(value: ov.Output) -> ov.Output:
    """In f32: the plugin computes in no type of the graph but in the one it was asked for.

    A state of fp16 would be converted as a whole at every step.
    """
    if type_of(value) == ov.Type.f32:
        return value
    return opset13.convert(value, ov.Type.f32).output(0)


def _grown(
    new: ov.Output,
    name: str,
    rows: ov.Node,
    row_of: ov.Node,
    contract: GraphContract,
    groups: int,
    sinks: list[ov.Node],
) -> ov.Node:
    """Keys or values of all slots, for every query head: a state, and what is new behind it.

    The Gather and the product with ones are there for the plugin, which looks for them: as one
    node it does neither.
    """
    info = VariableInfo()
    info.variable_id, info.data_type = name, ov.Type.f32
    info.data_shape = ov.PartialShape([-1, contract.kv_heads, -1, contract.head_dim])
    state = Variable(info)
    shape = opset13.concat([rows, ints(contract.kv_heads, 0, contract.head_dim)], 0)
    empty = opset13.broadcast(np.float32(0), shape)
    past = opset13.gather(opset6.read_value(empty, state), row_of, np.int64(0))
    present = opset13.concat([past, new], 2)
    sinks.append(opset6.assign(present, state))
    if groups == 1:
        return present
    ones = np.ones((1, 1, groups, 1, 1), np.float32)
    repeated = opset13.multiply(opset13.unsqueeze(present, np.int64(2)), ones)
    heads = groups * contract.kv_heads
    return opset13.reshape(repeated, ints(0, heads, -1, contract.head_dim), special_zero=True)


def _attention(model: ov.Model, layer: int, contract: GraphContract) -> Attention:
    """A layer's attention, found from its past values, and held to what the dialect spells."""
    past_keys, past_values = (model.input(f"{PAST}.{layer}.{p}") for p in ("key", "value"))
    keys, values = (_present(model, f"{PRESENT}.{layer}.{p}") for p in ("key", "value"))
    shape, head_dim = ov.PartialShape, contract.head_dim
    wanted = shape([-1, contract.kv_heads, -1, head_dim])
    require(keys.get_partial_shape() == wanted and values.get_partial_shape() == wanted)
    total = only_user(only_user(past_values.get_node().output(0)).output(0))
    out = only_user(total.output(0)).output(0)
    summed, merged = inputs(out, "Reshape")
    of_past, of_new = inputs(summed, "Add")
    weights_past, read_values = inputs(of_past, "MatMul")
    weights_new, own_values = inputs(of_new, "MatMul")
    require_same((read_values, past_values), (own_values, values))
    weights = sliced(weights_past, 0, contract.limits.capacity)
    require_same((weights, sliced(weights_new, contract.limits.capacity, END)))
    (masked,) = inputs(uncast(weights), "Softmax", axis=-1)
    mask, wide, unseen = inputs(masked, "Select")
    require_constant(unseen, UNSEEN)
    scores_past, scores_new = inputs(uncast(wide), "Concat", axis=-1)
    queries = []
    for scores, of in ((scores_past, past_keys), (scores_new, keys)):
        rows, transposed = inputs(scores, "MatMul")
        read_keys, order = inputs(transposed, "Transpose")
        require_constant(order, ints(0, 1, 3, 2))
        require_same((read_keys, of))
        queries.append(rows)
    require_same((queries[0], queries[1]))
    scaled, grouped = inputs(queries[0], "Reshape")
    require_constant(grouped, ints(0, contract.kv_heads, -1, head_dim))
    q, scale = inputs(scaled, "Multiply")
    factor = value_of(scale)
    require(factor.shape == () and bool(np.isfinite(factor)))
    heads = int(sizes_of(q)[1])
    require_constant(merged, ints(0, heads, -1, head_dim))
    require(sizes_of(q)[3] == head_dim and heads % contract.kv_heads == 0)
    window = _window(mask, model.input(POSITION_IDS), heads // contract.kv_heads, contract)
    return Attention(q, keys, values, out, float(factor), window)


def _window(
    mask: ov.Output, positions: ov.Output, groups: int, contract: GraphContract
) -> int | None:
    """The window of a mask that shows past before the row's first position, and new up to the own.

    None where it has none. Raises `ValueError` where it is another mask.
    """
    window = None
    if mask.get_node().get_type_name() == "LogicalAnd":
        mask, near = inputs(mask, "LogicalAnd")
        earliest, later = inputs(near, "Less")
        its_own, back = inputs(earliest, "Add")
        require(value_of(back).shape == (1,) and value_of(back).item() < 0)
        window = -int(value_of(back).item())
        require_same(*zip(inputs(mask, "LessEqual"), (later, its_own), strict=True))
    key, own = inputs(mask, "LessEqual")
    keys, axes = inputs(key, "Unsqueeze")
    require_constant(axes, ints(1, 2))
    tiled, axes = inputs(own, "Unsqueeze")
    require_constant(axes, ints(1, 3))
    past, new = inputs(keys, "Concat", axis=1)
    given, repeats = inputs(tiled, "Tile")
    require_constant(repeats, ints(1, groups))
    require_same((new, positions), (given, positions))
    before, slots, later = inputs(past, "Select")
    require(value_of(later).item() in (LATER, END))  # END until 2026-11-30
    compared, first = inputs(before, "Less")
    require_same((compared, slots))
    require_constant(slots, np.arange(contract.limits.capacity))
    of, at, axis = inputs(first, "Gather")
    require_same((of, positions))
    require_constant(at, ints(0))
    require_constant(axis, np.array(1))
    return window


def _present(model: ov.Model, name: str) -> ov.Output:
    return model.output(name).get_node().input_value(0)
