"""The `standard` dialect: what it may hold."""

from __future__ import annotations

import onnx
import pytest

from llx.graphs.inspect import op_counts
from tests.checkpoints import SPECS
from tests.conftest import export_tiny


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def artifact(request, tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("standard"), spec=request.param)


def test_the_graph_is_opset_24_of_onnx_itself(artifact):
    model = onnx.load(artifact.path("standard.onnx"), load_external_data=False)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 24)]
    assert {node.domain for node in model.graph.node} == {""}
    counts = op_counts(artifact.path("standard.onnx"))
    layers = artifact.manifest.spec.layers
    assert (counts["Attention"], counts["TensorScatter"], counts["RotaryEmbedding"]) == (
        layers,
        2 * layers,
        2 * layers,
    )


def test_the_mask_and_the_write_index_are_made_once(artifact):
    counts = op_counts(artifact.path("standard.onnx"))
    assert counts["LessOrEqual"] == 1
    assert counts["Gather"] == 2  # the embedding, and the write index
