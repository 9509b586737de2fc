"""TensorRT-RTX builds the fp16 graph for SM86 on a machine with no GPU, with native layers."""

from __future__ import annotations

from collections import Counter

import pytest
import tensorrt_rtx_bindings as trt

from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, POSITION_IDS
from tests.checkpoints import MHA, TINY
from tests.conftest import export_tiny


@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_fp16_graph_builds_for_sm86_with_native_cache_rotary_and_attention(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(artifact.path("standard.onnx"))), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    assert layers["KV_CACHE_UPDATE"] == 2 * spec.layers
    assert layers["ROTARY_EMBEDDING"] == 2 * spec.layers
    assert layers["ATTENTION_INPUT"] == spec.layers

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
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 2 * spec.parameters
