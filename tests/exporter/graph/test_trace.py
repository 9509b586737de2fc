"""Tracing: the exporting path equals the eager one, and memory holds no weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llx.exporter.graph.stamp import stamped_trace
from llx.exporter.graph.trace import _export, trace
from llx.graphs.contract import contract_for
from llx.llama.model import empty_cache
from llx.llama.weights import weights_of
from tests.checkpoints import KIN_SPECS, SPECS, TINY, TOGETHER, random_llama, torch_dice

EVERY_SPEC = SPECS | KIN_SPECS | TOGETHER
every_spec = pytest.mark.parametrize("spec", EVERY_SPEC.values(), ids=EVERY_SPEC)


@every_spec
@torch.inference_mode()
def test_the_exported_program_computes_what_eager_does(spec):
    model = random_llama(spec)
    contract = contract_for(spec, "fp32", 16)
    exported = _export(spec, contract)
    exported.state_dict.update(model.named_parameters())
    exported.state_dict.update(model.named_buffers())
    generator = torch_dice(0)
    tokens = torch.randint(0, spec.vocab, (2, 9), generator=generator)
    run = exported.module()
    eager_cache = empty_cache(spec, 2, 16, torch.float32)
    cache = [t.clone() for t in eager_cache]
    # A prefill, then a decode step on the filled cache.
    for start, end in ((0, 8), (8, 9)):
        positions = torch.arange(start, end).expand(2, -1)
        index = torch.full((2, 1), end - start - 1)
        wanted, _ = model(tokens[:, start:end], positions, index, eager_cache)
        got, cache = run(tokens[:, start:end], positions, index, cache)
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    for ours, eager in zip(cache, eager_cache, strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=0)


def test_the_semantic_graph_follows_the_contract():
    contract = contract_for(TINY, "fp16", 16)
    graph = trace(TINY, contract).graph
    assert [value.name for value in graph.inputs] == list(contract.inputs())
    assert [value.name for value in graph.outputs] == list(contract.outputs())
    shapes = [tuple(str(size) for size in value.shape) for value in graph.inputs]
    assert shapes == [tuple(map(str, shape)) for _, shape in contract.inputs().values()]


def test_the_semantic_graph_reads_every_weight_once():
    graph = trace(TINY, contract_for(TINY, "fp32", 16)).graph
    names = {weight.name for weight in weights_of(TINY)} | {"rope.cos", "rope.sin"}
    assert set(graph.initializers) == names
    assert all(value.uses() for value in graph.initializers.values())


def test_a_block_is_at_most_eighteen_nodes():
    nodes = [node.name for node in trace(TINY, contract_for(TINY, "fp32", 16)).graph]
    assert sum(name.startswith("layers.0") for name in nodes if name) <= 18


def test_an_op_that_no_dialect_knows_is_an_error(monkeypatch):
    monkeypatch.delitem(
        __import__("llx.exporter.graph.trace", fromlist=["x"]).ATEN_OPS, torch.ops.aten.silu.default
    )
    with pytest.raises(AssertionError, match="silu"):
        trace(TINY, contract_for(TINY, "fp32", 16))


def described(value):
    return (value.name, str(value.shape), value.dtype) if value else None


def with_layers(spec, layers):
    """The same model with more layers, or one: their kinds by turns, as they are."""
    of = [spec.kind_of(i % spec.layers) for i in range(layers)]
    windowed = tuple(i for i, kind in enumerate(of) if kind.window)
    return replace(
        spec,
        layers=layers,
        windowed=windowed,
        window=spec.window if windowed else None,
        nope=tuple(i for i, kind in enumerate(of) if not kind.rope) if layers > 1 else (),
    )


@pytest.mark.parametrize("layers", [1, 2, 12])
@every_spec
def test_a_stamped_graph_equals_the_traced_one_node_for_node(spec, layers):
    spec = with_layers(spec, layers)
    contract = contract_for(spec, "fp16", 16)
    traced, stamped = trace(spec, contract).graph, stamped_trace(spec, contract).graph
    for ours, theirs in ((traced.inputs, stamped.inputs), (traced.outputs, stamped.outputs)):
        assert [described(value) for value in ours] == [described(value) for value in theirs]
    assert list(traced.initializers) == list(stamped.initializers)
    ours, theirs = (
        [
            (
                node.name,
                node.domain,
                node.op_type,
                [described(value) for value in node.inputs],
                [described(value) for value in node.outputs],
                {name: attribute.value for name, attribute in node.attributes.items()},
            )
            for node in graph
        ]
        for graph in (traced, stamped)
    )
    assert ours == theirs
