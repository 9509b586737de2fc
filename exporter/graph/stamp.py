"""One traced block, stamped L times: the graph of 126 layers in the time that one takes to trace.

All blocks of a LLaMA are alike but for their weights and caches. That the stamped graph equals the
fully traced one, node for node, is held by a test.
"""

from __future__ import annotations

import re
from dataclasses import replace

import onnx_ir as ir

from llx.exporter.graph.trace import trace
from llx.graphs.contract import GraphContract
from llx.llama.spec import LlamaSpec

FIRST = re.compile(r"^(layers|past|present)\.0(?![0-9])")


def stamped_trace(spec: LlamaSpec, contract: GraphContract) -> ir.Model:
    """What `trace` gives for the model, from the trace of its first block alone."""
    one = trace(replace(spec, layers=1), replace(contract, layers=1))
    return stamp(one, contract)


def stamp(one: ir.Model, contract: GraphContract) -> ir.Model:
    """The semantic graph of `contract.layers` layers from that of one."""
    graph, layers = one.graph, range(contract.layers)
    nodes = list(graph)
    block = [node for node in nodes if _is_first(node.name)]
    at = nodes.index(block[0])
    before, after = nodes[:at], nodes[at + len(block) :]
    assert nodes[at : at + len(block)] == block, "the nodes of a block are not in one piece"
    enters, leaves = _crossing(before, block), _crossing(block, after)

    values: list[dict[ir.Value, ir.Value]] = [{} for _ in layers]
    shared: dict[ir.Value, ir.Value] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        if _is_first(value.name):
            for i in layers:
                values[i][value] = _copy(value, i)
        else:
            shared[value] = _copy(value, 0)
    stamped = [_copy_node(node, shared, 0) for node in before]
    x = shared[enters]
    for i in layers:
        here = values[i]
        here |= shared | {enters: x}
        stamped += [_copy_node(node, here, i) for node in block]
        x = here[leaves]
    shared[leaves] = x
    stamped += [_copy_node(node, shared, 0) for node in after]

    def each(ones: list[ir.Value]) -> list[ir.Value]:
        """The values of every layer where one has those of the first, in a full trace's order."""
        firsts = [value for value in ones if _is_first(value.name)]
        rest = [i for i, value in enumerate(ones) if not _is_first(value.name)]
        start = ones.index(firsts[0])
        everything = [values[i][value] for i in layers for value in firsts]
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
        ir_version=one.ir_version,
        producer_name=one.producer_name,
    )


def _is_first(name: str | None) -> bool:
    return bool(FIRST.match(name or ""))


def _renamed(name: str | None, layer: int) -> str:
    return FIRST.sub(rf"\g<1>.{layer}", name or "")


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
