"""The semantic graph: a LLaMA in the ops that it is written in, before any runtime's spelling.

Its nodes are of domain `llx`; activations are [B, T, heads·D]; it holds no weights and needs no
PyTorch. `lower` turns it into a dialect's graph and leaves it as it was, so one trace serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from llx.graphs.contract import CacheKind, GraphContract
from llx.precision import PRECISIONS, Compute, Precision

DOMAIN = "llx"
MICROSOFT = "com.microsoft"  # the domain of ops that are ONNX Runtime's own
VERSION = 1
PRODUCER = "llx"

# The opset that brought int4 and blocks, and the IR version that its ONNX release, 1.16, has.
INT4_OPSET, INT4_IR_VERSION = 21, 10

# Arguments that are attributes of a node rather than inputs.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "rms_norm": ("eps",),
    "split": ("split_sizes",),
    "scale": ("factor",),
    "rope": ("head_dim",),
    "attention": ("window", "scale"),
}

Results = Sequence[ir.Value]
Lowering = Callable[["Builder", ir.Node, Sequence[ir.Value]], ir.Value | Results]


@dataclass(frozen=True)
class Dialect:
    """How one kind of runtime spells the semantic ops: one small function for each.

    `domains`: those of its ops that are not ONNX's own, and their versions. `compute`: what it
    computes in, and has its cache in, whatever was exported; None is what was exported.
    """

    name: str
    opset: int
    ir_version: int
    cache: CacheKind
    ops: Mapping[str, Lowering]
    domains: Mapping[str, int] = field(default_factory=dict)
    compute: Literal["fp32"] | None = None

    def computes_in(self, exported: Compute) -> Compute:
        """The type that its graphs compute in, of an artifact in another perhaps."""
        return self.compute or exported

    def contract_of(self, contract: GraphContract) -> GraphContract:
        """An artifact's contract, in the type that this dialect computes in."""
        return replace(contract, compute=self.computes_in(contract.compute))

    def opset_for(self, precision: Precision) -> int:
        """The opset of its graphs in a precision: its own, or the one that int4 needs."""
        return max(self.opset, INT4_OPSET if precision.linear == "int4" else 0)

    def ir_version_for(self, precision: Precision) -> int:
        """The IR version of its graphs in a precision."""
        return max(self.ir_version, INT4_IR_VERSION if precision.linear == "int4" else 0)


class Builder:
    """Collects the nodes, constants and added weights of a lowered graph."""

    def __init__(
        self,
        inputs: Mapping[str, ir.Value],
        here: dict[ir.Value, ir.Value],
        precision: Precision,
        dense: frozenset[str],
    ) -> None:
        self.inputs, self.precision, self.dense = inputs, precision, dense
        self.here = here  # what each value of the semantic graph has become
        self.nodes: list[ir.Node] = []
        self.constants: dict[bytes | str, ir.Value] = {}
        self.weights: list[ir.Value] = []
        self.shared: dict[str, ir.Value] = {}
        self.scope = ""

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Append a node with one output, named after the semantic node being lowered."""
        return self.op_multi(op_type, 1, *inputs, **attributes)[0]

    def op_multi(
        self,
        op_type: str,
        outputs: int,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: Any,
    ) -> Results:
        """Append a node with several outputs."""
        name = f"{self.scope}/{op_type}_{len(self.nodes)}"
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{name}.{i}"
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """A small constant; equal ones are one initializer."""
        key = repr((array.dtype, array.shape)).encode() + array.tobytes()
        if key not in self.constants:
            name = f"constant.{len(self.constants)}"
            self.constants[key] = ir.val(name, const_value=ir.Tensor(array, name=name))
        return self.constants[key]

    def named_constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant that is found by its name in the graph, and is no other's equal."""
        if name not in self.constants:
            self.constants[name] = ir.val(name, const_value=ir.Tensor(array, name=name))
        return self.constants[name]

    def weight(self, name: str, dtype: ir.DataType, shape: Iterable[int]) -> ir.Value:
        """A weight that the semantic graph does not have, or has in another dtype: no value yet."""
        value = ir.Value(name=name, shape=ir.Shape(tuple(shape)), type=ir.TensorType(dtype))
        self.weights.append(value)
        return value

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 vector: axes, sizes, a shape to reshape to."""
        return self.constant(np.array(values, dtype=np.int64))

    def once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """A value that all layers share, such as the mask: made where it is first needed."""
        if name not in self.shared:
            outer, self.scope = self.scope, name
            self.shared[name] = make()
            self.scope = outer
        return self.shared[name]


def lower(
    semantic: ir.Model,
    dialect: Dialect,
    precision: Precision = PRECISIONS["fp32"],
    dense: frozenset[str] = frozenset(),
) -> ir.Model:
    """A graph of the dialect's ops with the semantic graph's inputs, outputs and weights.

    `precision`: what its linear layers are stored as, which `llx.graphs.linear` spells; `dense`:
    the modules that are not, such as `layers.3.down`. The types of all else are the trace's.
    """
    graph = semantic.graph
    here = {value: _copy(value, _type_in(dialect, value)) for value in graph.inputs}
    here |= {value: _copy(value, value.type) for value in graph.initializers.values()}
    inputs = {value.name: here[value] for value in graph.inputs if value.name}
    builder = Builder(inputs, here, precision, dense)
    for node in graph:
        builder.scope = node.name or node.op_type
        lowered = dialect.ops[node.op_type](builder, node, [here[v] for v in node.inputs if v])
        results = [lowered] if isinstance(lowered, ir.Value) else lowered
        for old, new in zip(node.outputs, results, strict=True):
            here[old] = new
            if new.type is not None:  # it is an earlier node's, handed on
                continue
            new.name, new.type = old.name, _type_in(dialect, old)
            if new.shape is None:  # unless the dialect gives the value a shape of its own
                new.shape = old.shape
    used = {value for node in builder.nodes for value in node.inputs}
    weights = [here[value] for value in graph.initializers.values() if here[value] in used]
    lowered_graph = ir.Graph(
        [here[value] for value in graph.inputs],
        [here[value] for value in graph.outputs],
        nodes=builder.nodes,
        initializers=[*weights, *builder.weights, *builder.constants.values()],
        opset_imports={"": dialect.opset_for(precision), **dialect.domains},
        name=graph.name,
    )
    version = dialect.ir_version_for(precision)
    return ir.Model(lowered_graph, ir_version=version, producer_name=PRODUCER)


def _copy(value: ir.Value, type_: ir.TypeProtocol | None) -> ir.Value:
    return ir.Value(name=value.name, shape=value.shape, type=type_)


def _type_in(dialect: Dialect, value: ir.Value) -> ir.TypeProtocol | None:
    """The type of an input or of an activation: that of the trace, or the dialect's own."""
    floating = value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return ir.TensorType(ir.DataType.FLOAT) if dialect.compute and floating else value.type
