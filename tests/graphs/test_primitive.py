"""The `primitive` dialect: what it may hold, and what it makes only once."""

from __future__ import annotations

import onnx
import pytest

from llx.graphs.inspect import op_counts
from tests.checkpoints import SPECS
from tests.conftest import export_tiny

PATH = "primitive.onnx"
# What TensorRT 10.3 does not know, or knows by another meaning.
TOO_NEW = {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter", "Swish"}


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def artifact(request, tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("primitive"), spec=request.param)


def test_the_graph_is_opset_19_of_onnx_itself_in_a_file_that_old_runtimes_read(artifact):
    model = onnx.load(artifact.path(PATH), load_external_data=False)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 19)]
    assert model.ir_version == 9
    assert {node.domain for node in model.graph.node} == {""}
    assert not TOO_NEW & set(op_counts(artifact.path(PATH)))


def test_the_cache_is_read_by_two_products_a_layer_and_copied_by_nothing(artifact):
    graph = onnx.load(artifact.path(PATH), load_external_data=False).graph
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for layer in range(artifact.manifest.spec.layers):
        (transpose,) = readers[f"past.{layer}.key"]  # which every runtime makes part of the product
        assert transpose.op_type == "Transpose"
        assert [node.op_type for node in readers[transpose.output[0]]] == ["MatMul"]
        assert [node.op_type for node in readers[f"past.{layer}.value"]] == ["MatMul"]


def test_mask_cosines_and_sines_are_made_once_for_all_layers(artifact):
    counts = op_counts(artifact.path(PATH))
    assert counts["Gather"] == 4  # the embedding, cos, sin, and each row's first position
    assert (counts["Less"], counts["LessOrEqual"], counts["Tile"], counts["Neg"]) == (1, 1, 1, 1)
    assert counts["Softmax"] == artifact.manifest.spec.layers


def test_an_fp16_graph_keeps_statistics_and_softmax_in_fp32(tmp_path):
    path = export_tiny(tmp_path, "fp16").path(PATH)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    wide, narrow = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    wanted = dict.fromkeys(("Pow", "ReduceMean", "Sqrt", "Softmax"), wide) | {"Sigmoid": narrow}
    for op_type, dtype in wanted.items():
        found = {types[node.output[0]] for node in graph.node if node.op_type == op_type}
        assert found == {dtype}, op_type
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert {types[node.output[0]] for node in products} == {narrow}
