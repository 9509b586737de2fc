"""One traced block, stamped L times: the graph of 126 layers in the time that one takes to trace.

All blocks of a LLaMA are alike but for their weights and caches, and where there are several kinds
of layers, all of a kind. That the stamped graph equals the fully traced one, node for node, is held
by a test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise

import onnx_ir as ir

from llx.exporter.graph.trace import trace
from llx.graphs.contract import GraphContract
from llx.llama.spec import LlamaSpec

OF_LAYER = re.compile(r"^(layers|past|present)\.(\d+)(?![0-9])")


def stamped_trace(spec: LlamaSpec, contract: GraphContract) -> ir.Model:
    """What `trace` gives for the model, from the trace of one block of each kind alone."""
    kinds = spec.kinds
    few = trace(spec.one_of_each(), replace(contract, layers=len(kinds)))
    return stamp(few, contract, [kinds.index(spec.kind_of(i)) for i in range(spec.layers)])


def stamp(few: ir.Model, contract: GraphContract, of: Sequence[int]) -> ir.Model:
    """The semantic graph of `contract.layers` layers, each as the traced one that `of` names."""
    graph, layers = few.graph, range(contract.layers)
    nodes, traced = list(graph), range(max(of) + 1)
    blocks = [[node for node in nodes if _layer_of(node.name) == i] for i in traced]
    at, end = nodes.index(blocks[0][0]), nodes.index(blocks[-1][-1]) + 1
    before, after = nodes[:at], nodes[end:]
    assert nodes[at:end] == [*chain(*blocks)], "the nodes of a block are not in one piece"
    pieces = [before, *blocks, after]
    crossing = [_crossing(one, next_one) for one, next_one in pairwise(pieces)]

    values: list[dict[ir.Value, ir.Value]] = [{} for _ in layers]
    shared: dict[ir.Value, ir.Value] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        kind = _layer_of(value.name)
        if kind is None:
            shared[value] = _copy(value, 0)
        for i in layers:
            if of[i] == kind:
                values[i][value] = _copy(value, i)
    stamped = [_copy_node(node, shared, 0) for node in before]
    x = shared[crossing[0]]
    for i in layers:
        here = values[i]
        here |= shared | {crossing[of[i]]: x}
        stamped += [_copy_node(node, here, i) for node in blocks[of[i]]]
        x = here[crossing[of[i] + 1]]
    shared[crossing[-1]] = x
    stamped += [_copy_node(node, shared, 0) for node in after]

    def each(ones: list[ir.Value]) -> list[ir.Value]:
        """The values of every layer where some have those of its kind, in a full trace's order."""
        own = [[value for value in ones if _layer_of(value.name) == kind] for kind in traced]
        rest = [i for i, value in enumerate(ones) if _layer_of(value.name) is None]
        start = ones.index(own[0][0])
        everything = [values[i][value] for i in layers for value in own[of[i]]]
        return [
            *(shared[ones[i]] for i in rest if i < start),
            *everything,
            *(shared[ones[i]] for i in rest if i >= start),
        ]

    return ir.Model(
        ir.Graph(
            each(list(graph.inputs)),
            each(list(graph.outputs)),
            nodes=stamped,
            initializers=each(list(graph.initializers.values())),
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
        ),
        ir_version=few.ir_version,
        producer_name=few.producer_name,
    )


def _layer_of(name: str | None) -> int | None:
    """The layer that a node or a value belongs to."""
    found = OF_LAYER.match(name or "")
    return int(found[2]) if found else None


def _renamed(name: str | None, layer: int) -> str:
    return OF_LAYER.sub(rf"\g<1>.{layer}", name or "")


def _copy(value: ir.Value, layer: int) -> ir.Value:
    return ir.Value(name=_renamed(value.name, layer), shape=value.shape, type=value.type)


def _copy_node(node: ir.Node, values: dict[ir.Value, ir.Value], layer: int) -> ir.Node:
    """The node with its inputs looked up, and its outputs noted, in `values`."""
    outputs = [_copy(value, layer) for value in node.outputs]
    copied = ir.Node(
        node.domain,
        node.op_type,
        [values[value] if value else None for value in node.inputs],
        list(node.attributes.values()),
        outputs=outputs,
        name=_renamed(node.name, layer),
    )
    values.update(zip(node.outputs, outputs, strict=True))
    return copied


def _crossing(producers: list[ir.Node], consumers: list[ir.Node]) -> ir.Value:
    """The one value that goes from some nodes to others: the residual stream."""
    made = {value for node in producers for value in node.outputs}
    used = {value for node in consumers for value in node.inputs if value in made}
    (value,) = used
    return value
