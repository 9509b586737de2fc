"""A graph stamped with another capacity is the graph that an export with it writes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import onnx_ir as ir
import pytest

from llx.artifact import Artifact
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.errors import BadInput
from llx.graphs.capacity import restamp
from llx.graphs.contract import contract_for
from llx.graphs.dialects import DIALECTS
from llx.graphs.inspect import problems
from tests import parity
from tests.checkpoints import KIN_SPECS, SPECS, TINY
from tests.conftest import export_tiny, vouched

TABLES = ("rope.cos", "rope.sin")

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def described(value):
    """Name, shape, type, and what a constant or weight is: its numbers, or its file.

    RoPE tables, as stored and as computed with, have as many positions as the export was for: their
    shape is no matter here, nor is where in its file a weight lies behind them.
    """
    if value is None:
        return None
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        held = tensor.location
    else:
        held = None if tensor is None else (tensor.dtype, tensor.shape.numpy(), tensor.tobytes())
    shape = list(value.shape or ())[value.name.startswith(TABLES) :]
    return value.name, str(shape), value.dtype, held


def described_graph(model):
    graph = model.graph
    return {
        "model": (model.ir_version, model.producer_name, graph.name, dict(graph.opset_imports)),
        "inputs": [described(value) for value in graph.inputs],
        "outputs": [described(value) for value in graph.outputs],
        "initializers": [described(value) for value in graph.initializers.values()],
        "nodes": [
            (
                node.name,
                node.op_type,
                [described(value) for value in node.inputs],
                [described(value) for value in node.outputs],
                {name: attribute.value for name, attribute in node.attributes.items()},
            )
            for node in graph
        ],
    }


@pytest.fixture(scope="module")
def graph_of(tmp_path_factory):
    """The graph that an export with a capacity wrote, loaded anew; each is exported once."""

    @cache
    def exported(spec, capacity):
        folder = tmp_path_factory.mktemp("capacity")
        return export_tiny(folder, "fp16", (SPECS | KIN_SPECS)[spec], context=capacity)

    return lambda spec, capacity, dialect: ir.load(exported(spec, capacity).path(f"{dialect}.onnx"))


@every_dialect
# One position, some that equal other sizes of the model (T's 2, D, dim, F), and all of its context.
@pytest.mark.parametrize("capacity", [1, 2, 10, 36, 52, 96])
@pytest.mark.parametrize("spec", ["gqa", "mha-tied", "biased", "window-of-one-layer"])
def test_a_stamped_graph_equals_the_exported_one(graph_of, spec, capacity, dialect):
    model, exported = graph_of(spec, 96, dialect), graph_of(spec, capacity, dialect)
    assert capacity == 96 or described_graph(model) != described_graph(exported)
    restamp(model, capacity)
    assert described_graph(model) == described_graph(exported)


@every_dialect
def test_a_stamped_graph_runs_on_the_weights_that_are_there(tmp_path, dialect):
    artifact = export_tiny(tmp_path, context=90)
    path = artifact.path(f"{dialect}.onnx")
    model = ir.load(path)
    restamp(model, 64)
    ir.save(model, path)
    assert path.stat().st_size < 100_000  # no weight has come in
    manifest = vouched(artifact, path.name).manifest
    contract = contract_for(TINY, "fp32", 64)
    assert problems(path, contract, DIALECTS[dialect]) == []
    smaller = Artifact(artifact.folder, replace(manifest, contract=contract))
    found = parity.compare(OrtSession(smaller, 1, dialect), TorchSession.open(smaller))
    assert max(found.prefill_error, found.decode_error) <= 1e-5


@every_dialect
@pytest.mark.parametrize("capacity", [0, -3, 97])
def test_a_capacity_beyond_the_tables_is_refused_and_changes_nothing(tiny, dialect, capacity):
    model = ir.load(tiny.path(f"{dialect}.onnx"))
    before = described_graph(model)
    with pytest.raises(BadInput, match=rf"{capacity} positions is outside the graph's 1…96"):
        restamp(model, capacity)
    assert described_graph(model) == before


def test_a_graph_that_llx_did_not_write_is_refused(tiny):
    model = ir.load(tiny.path("standard.onnx"))
    model.producer_name = "pytorch"
    with pytest.raises(BadInput, match="only into a graph that this version of llx wrote"):
        restamp(model, 16)
    older = ir.load(tiny.path("standard.onnx"))
    older.graph.initializers["slots"].name = "before"
    with pytest.raises(BadInput, match="only into a graph that this version of llx wrote"):
        restamp(older, 16)
