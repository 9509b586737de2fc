"""Faults that are put into an artifact's files, for which its manifest then vouches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from llx.artifact import Artifact, open_artifact
from llx.manifest import WEIGHTS
from tests.test_any_value import vouch_for

DTYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8}
DECODE_FROM = 24  # where a check begins to decode: its windows are of 32 tokens

Change = Callable[[np.ndarray], np.ndarray]
Edit = Callable[[onnx.ModelProto], None]


def changed_weights(artifact: Artifact, **changes: Change) -> Artifact:
    """Give weights other values; `layers__1__qkv__weight` is the one with dots in their places."""
    path = artifact.folder / WEIGHTS
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, change in changes.items():
        entry = header[name.replace("__", ".")]
        start, end = (8 + length + at for at in entry["data_offsets"])
        dtype = DTYPES[entry["dtype"]]
        values = np.frombuffer(bytes(data[start:end]), dtype).reshape(entry["shape"]).copy()
        data[start:end] = np.ascontiguousarray(change(values), dtype).tobytes()
    return _written(artifact, WEIGHTS, bytes(data))


def swapped_weights(artifact: Artifact, one: str, other: str) -> Artifact:
    """Two weights of one shape, each with the other's values."""
    with artifact.opened_weights("np") as file:
        first, second = file.get_tensor(one).copy(), file.get_tensor(other).copy()
    names = (name.replace(".", "__") for name in (one, other))
    return changed_weights(
        artifact,
        **dict(zip(names, (lambda _: second, lambda _: first), strict=True)),
    )


def changed_graph(artifact: Artifact, edit: Edit, dialect: str = "standard") -> Artifact:
    """Edit one graph."""
    path = artifact.folder / f"{dialect}.onnx"
    model = onnx.load(path, load_external_data=False)
    edit(model)
    return _written(artifact, path.name, model.SerializeToString())


def _written(artifact: Artifact, name: str, data: bytes) -> Artifact:
    path: Path = artifact.folder / name
    path.write_bytes(data)
    vouch_for(artifact.folder, name)
    return open_artifact(artifact.folder)


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def with_attribute(output: str, **attributes) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = node_of(model, output)
        for name, value in attributes.items():
            for old in [a for a in node.attribute if a.name == name]:
                node.attribute.remove(old)
            node.attribute.append(helper.make_attribute(name, value))

    return edit


def with_op(output_of: str, op_type: str, scope: str = "mask") -> Edit:
    """Another op in the place of the one of a type in a scope."""

    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == output_of and node.name.startswith(scope):
                node.op_type = op_type

    return edit


def with_constant(name: str, change: Change) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        (found,) = (c for c in model.graph.initializer if c.name == name)
        changed = change(numpy_helper.to_array(found).copy())
        found.CopyFrom(numpy_helper.from_array(changed, name))

    return edit


def with_input(output: str, index: int, name: str) -> Edit:
    """An op reads another value."""

    def edit(model: onnx.ModelProto) -> None:
        node_of(model, output).input[index] = name

    return edit


def shifted_positions(users: Callable[[onnx.NodeProto], bool], decode: bool, by: int) -> Edit:
    """Some ops see positions moved by some: only those of decode, or only those before."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.int64), f"planted.{name}")
            for name, value in (("border", DECODE_FROM), ("by", by), ("none", 0))
        )
        values = ("planted.none", "planted.by") if decode else ("planted.by", "planted.none")
        nodes = [
            helper.make_node("Less", ["position_ids", "planted.border"], ["planted.early"]),
            helper.make_node("Where", ["planted.early", *values], ["planted.shift"]),
            helper.make_node("Add", ["position_ids", "planted.shift"], ["planted.positions"]),
        ]
        for node in graph.node:
            if users(node):
                for i, name in enumerate(node.input):
                    if name == "position_ids":
                        node.input[i] = "planted.positions"
        old = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *old])

    return edit


def gathered(value: str, order: list[int], axis: int) -> Edit:
    """Whoever reads a value reads it in another order."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        name = f"planted.{value}"
        graph.initializer.append(
            numpy_helper.from_array(np.array(order, np.int64), f"{name}.order")
        )
        old = list(graph.node)
        del graph.node[:]
        for node in old:
            for i, read in enumerate(node.input):
                if read == value:
                    node.input[i] = name
            graph.node.append(node)
            if value in node.output:
                graph.node.append(
                    helper.make_node("Gather", [value, f"{name}.order"], [name], axis=axis)
                )

    return edit


def both(*edits: Edit) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for one in edits:
            one(model)

    return edit
