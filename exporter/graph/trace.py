"""Trace once: the model on the meta device becomes the semantic graph.

No weights are read or made: memory depends neither on the model's size nor on its vocabulary.
Only the semantic ops and a handful of PyTorch's own occur; any other is an error, not a guess.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.export.graph_signature import InputKind

from llx.graphs import semantic
from llx.graphs.contract import GraphContract
from llx.llama import ops
from llx.llama.model import Llama, empty_cache
from llx.llama.spec import LlamaSpec
from llx.precision import Compute

TORCH_DTYPES: dict[Compute, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
IR_DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
}
# PyTorch's own ops that a trace may hold, by the name of the semantic op that they are.
ATEN_OPS = {
    torch.ops.aten.add.Tensor: "add",
    torch.ops.aten.mul.Tensor: "mul",
    torch.ops.aten.silu.default: "silu",
    torch.ops.aten.embedding.default: "embedding",
    torch.ops.aten.split_with_sizes.default: "split",
}


def trace(spec: LlamaSpec, contract: GraphContract) -> ir.Model:
    """The semantic graph of a model: domain `llx`, inputs and outputs as the contract says.

    Its initializers have names, shapes and dtypes, and no values.
    """
    exported = _export(spec, contract)
    dims = _name_dims(exported, contract)
    walk = _Walk(dims)
    signature = {s.arg.name: s for s in exported.graph_signature.input_specs}
    inputs = iter(contract.inputs())
    weights: list[ir.Value] = []
    graph_inputs: list[ir.Value] = []
    graph_outputs: list[ir.Value] = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            is_input = signature[node.name].kind is InputKind.USER_INPUT
            name = next(inputs) if is_input else str(signature[node.name].target)
            value = walk.define(node, name, node.meta["val"])
            (graph_inputs if is_input else weights).append(value)
        elif node.op == "call_function":
            walk.call(node)
        else:
            for name, result in zip(contract.outputs(), node.args[0], strict=True):
                value = walk.values[result.name]
                value.name = name
                graph_outputs.append(value)
    return ir.Model(
        ir.Graph(
            graph_inputs,
            graph_outputs,
            nodes=walk.nodes,
            initializers=weights,
            opset_imports={semantic.DOMAIN: semantic.VERSION},
            name="llama",
        ),
        ir_version=11,
        producer_name="llx",
    )


def _export(spec: LlamaSpec, contract: GraphContract) -> torch.export.ExportedProgram:
    b, t, k = 2, 5, 3  # distinct and above 1, so that no dimension is taken for another
    dtype = TORCH_DTYPES[contract.compute]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = Llama(spec, contract.limits.capacity)
            tokens = torch.empty(b, t, dtype=torch.int64)
            index = torch.empty(b, k, dtype=torch.int64)
            past = empty_cache(spec, b, contract.limits.capacity, dtype)
            dynamic = torch.export.Dim.DYNAMIC
            two = {0: dynamic, 1: dynamic}
            return torch.export.export(
                model,
                (tokens, tokens.clone(), index, past),
                dynamic_shapes=(two, two, two, [{0: dynamic} for _ in past]),
                strict=False,
            )
    finally:
        torch.set_default_dtype(default)


def _name_dims(exported: torch.export.ExportedProgram, contract: GraphContract) -> dict[str, str]:
    """PyTorch's symbols, which change from trace to trace, by the contract's letters."""
    names: dict[str, str] = {}
    signature = exported.graph_signature.input_specs
    users = [s.arg.name for s in signature if s.kind is InputKind.USER_INPUT]
    values = {n.name: n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder"}
    for user, (_, shape) in zip(users, contract.inputs().values(), strict=True):
        for size, letter in zip(values[user].shape, shape, strict=True):
            if isinstance(letter, str):
                names.setdefault(str(size), letter)
    return names


class _Walk:
    """Turns the exported program's calls into nodes, one for one."""

    def __init__(self, dims: dict[str, str]) -> None:
        self.dims = dims
        self.values: dict[str, ir.Value] = {}
        self.lists: dict[str, list[ir.Value]] = {}
        self.nodes: list[ir.Node] = []
        self.names: dict[str, int] = {}

    def define(self, node: torch.fx.Node, name: str, val: torch.Tensor) -> ir.Value:
        sizes: list[Any] = list(val.shape)  # numbers, or PyTorch's symbols
        shape = [size if isinstance(size, int) else self.dims[str(size)] for size in sizes]
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(IR_DTYPES[val.dtype]))
        self.values[node.name] = value
        return value

    def call(self, node: torch.fx.Node) -> None:
        if getattr(node.target, "__name__", "") == "getitem":
            source, index = node.args
            assert isinstance(source, torch.fx.Node)
            assert isinstance(index, int)
            self.values[node.name] = self.lists[source.name][index]
            return
        op_type = self._op_type(node)
        name = self._unique(f"{_module_of(node)}/{op_type}")
        inputs, attributes = [], []
        target: Any = node.target
        for arg, schema in zip(node.args, target._schema.arguments, strict=False):
            if isinstance(arg, torch.fx.Node):
                inputs.append(self.values[arg.name])
            elif arg is not None and schema.name in semantic.ATTRIBUTES.get(op_type, ()):
                value: Any = arg
                attributes.append(ir.convenience.convert_attribute(schema.name, value))
        results = node.meta["val"]
        several = isinstance(results, (list, tuple))
        outputs = [
            self.define(node, f"{name}.{i}" if several else name, val)
            for i, val in enumerate(results if several else [results])
        ]
        if several:
            self.lists[node.name] = outputs
        self.nodes.append(
            ir.Node(semantic.DOMAIN, op_type, inputs, attributes, outputs=outputs, name=name)
        )

    def _op_type(self, node: torch.fx.Node) -> str:
        target: Any = node.target
        if target in ATEN_OPS:
            return ATEN_OPS[target]
        if getattr(target, "namespace", None) == ops.LIBRARY:
            return str(target._opname)
        raise AssertionError(f"the trace holds {target}, which no dialect knows")

    def _unique(self, name: str) -> str:
        count = self.names[name] = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"


def _module_of(node: torch.fx.Node) -> str:
    """Path of the module that a call came from, as `layers.0.qkv`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path.removeprefix("L['self'].") or "model"
