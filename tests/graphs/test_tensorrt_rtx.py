"""TensorRT-RTX builds the fp16 graphs for SM86 on a machine with no GPU."""

from __future__ import annotations

from collections import Counter

import pytest
import tensorrt_rtx_bindings as trt

from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, LOGITS, POSITION_IDS
from tests.checkpoints import MHA, TINY
from tests.conftest import export_tiny


def parsed(builder, path):
    """The network of a graph, and how many layers of each type it has."""
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(path)), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return parser, network, layers


def built(builder, network):
    """An engine for SM86, of one row and up to 64 new tokens."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.name in (INPUT_IDS, POSITION_IDS, LOGIT_INDEX):
            profile.set_shape(tensor.name, (1, 1), (1, 1), (1, 64))
        else:
            shape = (1, *tuple(tensor.shape)[1:])
            profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_fp16_graph_builds_for_sm86_with_native_cache_rotary_and_attention(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    _parser, network, layers = parsed(builder, artifact.path("standard.onnx"))
    assert layers["KV_CACHE_UPDATE"] == 2 * spec.layers
    assert layers["ROTARY_EMBEDDING"] == 2 * spec.layers
    assert layers["ATTENTION_INPUT"] == spec.layers
    engine = built(builder, network)
    assert engine is not None
    assert engine.nbytes > 2 * spec.parameters


@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_decomposed_fp16_graph_builds_for_sm86(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    _parser, network, layers = parsed(builder, artifact.path("primitive.onnx"))
    # Of an older TensorRT's layers alone: four products a layer, and none of the native ones.
    assert not {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING", "ATTENTION_INPUT"} & layers.keys()
    assert layers["SOFTMAX"] == spec.layers
    assert layers["MATRIX_MULTIPLY"] == 8 * spec.layers + 1
    for i in range(network.num_outputs):
        present = network.get_output(i)
        if present.name != LOGITS:
            assert present.dtype == trt.float16
            assert tuple(present.shape) == (-1, spec.kv_heads, -1, spec.head_dim)
    engine = built(builder, network)
    assert engine is not None
    assert engine.nbytes > 2 * spec.parameters
