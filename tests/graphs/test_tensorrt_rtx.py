"""What TensorRT-RTX makes of the graphs, and that it builds them for SM86 with no GPU.

A build of int8 proves that it is parsed, typed and stored as int8: kernels are chosen on the GPU.
"""

from __future__ import annotations

from collections import Counter

import pytest
import tensorrt_rtx_bindings as trt

from llx.errors import BadInput, LlxError
from llx.exporter.engines.build import BuildRequest, build_engine, engine_contract
from llx.graphs.contract import LOGITS
from llx.tensorrt import BuildOptions, build
from tests.checkpoints import BIASED, MHA, TINY
from tests.conftest import export_tiny

REQUEST = BuildRequest(runtime="trt-rtx", sm=86, max_prefill=64)


def parsed(path):
    """The network of a graph, what keeps it alive, and how many layers of each type it has."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(path)), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return (builder, parser), network, layers


def built(artifact, dialect, sm=86):
    """The engine's bytes, of one row and up to 64 new tokens."""
    path = artifact.path(f"{dialect}.onnx")
    contract = engine_contract(artifact.manifest.contract, REQUEST)
    plan = build("trt-rtx", path.read_bytes(), path, contract, BuildOptions(), sm)
    return memoryview(plan.data)


def assert_native(layers, spec):
    assert layers["KV_CACHE_UPDATE"] == 2 * spec.layers
    assert layers["ROTARY_EMBEDDING"] == 2 * spec.layers
    assert layers["ATTENTION_INPUT"] == spec.layers


@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_fp16_graph_builds_for_sm86_with_native_cache_rotary_and_attention(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    assert_native(parsed(artifact.path("standard.onnx"))[2], spec)
    assert built(artifact, "standard").nbytes > 2 * spec.parameters


def assert_both_sides_quantized(layers, spec):
    """Inputs are quantized; these and the weights are dequantized."""
    assert layers["QUANTIZE"] == 4 * spec.layers
    assert layers["DEQUANTIZE"] == 8 * spec.layers


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_decomposed_graph_builds_for_sm86(tmp_path, spec, precision):
    artifact = export_tiny(tmp_path, precision, spec)
    _alive, network, layers = parsed(artifact.path("primitive.onnx"))
    # Of an older TensorRT's layers alone: four products a layer, and none of the native ones.
    assert not {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING", "ATTENTION_INPUT"} & layers.keys()
    assert layers["SOFTMAX"] == spec.layers
    assert layers["MATRIX_MULTIPLY"] == 8 * spec.layers + 1
    for i in range(network.num_outputs):
        present = network.get_output(i)
        if present.name != LOGITS:
            assert present.dtype == trt.float16
            assert tuple(present.shape) == (-1, spec.kv_heads, -1, spec.head_dim)
    assert built(artifact, "primitive").nbytes > spec.parameters


@pytest.mark.parametrize("spec", [TINY, MHA, BIASED], ids=["gqa", "mha-tied", "biased"])
def test_the_int8_graph_builds_for_sm86_with_every_scale_kept(tmp_path, spec):
    artifact = export_tiny(tmp_path, "int8", spec)
    layers = parsed(artifact.path("standard.onnx"))[2]
    assert_native(layers, spec)
    assert_both_sides_quantized(layers, spec)
    assert built(artifact, "standard").nbytes > spec.parameters


@pytest.mark.parametrize("sm", [89, 120])
def test_the_fp8_graph_builds_for_ada_and_blackwell_with_every_scale_kept(tmp_path, sm):
    artifact = export_tiny(tmp_path, "fp8", BIASED)
    layers = parsed(artifact.path("standard.onnx"))[2]
    assert_native(layers, BIASED)
    assert_both_sides_quantized(layers, BIASED)
    for dialect in ("standard", "primitive"):
        assert built(artifact, dialect, sm).nbytes > BIASED.parameters


def test_fp8_is_refused_for_ampere_before_it_is_built(tmp_path):
    artifact = export_tiny(tmp_path, "fp8")
    with pytest.raises(BadInput, match="SM86 has no float8e4m3fn; it takes SM89") as refused:
        build_engine(artifact, REQUEST)
    assert "--precision int8" in refused.value.remedy
    with pytest.raises(LlxError, match="fp8"):  # what would come of it
        built(artifact, "standard")
