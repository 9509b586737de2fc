"""TensorRT-RTX builds the graphs for SM86 on a machine with no GPU, with native layers.

A build of int8 proves that it is parsed, typed and stored as int8: kernels are chosen on the GPU.
"""

from __future__ import annotations

from collections import Counter

import pytest
import tensorrt_rtx_bindings as trt

from llx.exporter.export import ExportRequest, export
from llx.exporter.locate import locate
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, POSITION_IDS
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from tests.checkpoints import BIASED, MHA, TINY
from tests.conftest import export_tiny


def parsed(artifact):
    """The builder, and the network of an artifact's graph."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(artifact.path("standard.onnx"))), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    return builder, network


def layers_of(network):
    return Counter(network.get_layer(i).type.name for i in range(network.num_layers))


def built(builder, network, most):
    """The engine's bytes for SM86, with one row and at most `most` new tokens."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.name in (INPUT_IDS, POSITION_IDS, LOGIT_INDEX):
            profile.set_shape(tensor.name, (1, 1), (1, 1), (1, most))
        else:
            shape = (1, *tuple(tensor.shape)[1:])
            profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return engine


def assert_native(network, spec):
    layers = layers_of(network)
    assert layers["KV_CACHE_UPDATE"] == 2 * spec.layers
    assert layers["ROTARY_EMBEDDING"] == 2 * spec.layers
    assert layers["ATTENTION_INPUT"] == spec.layers


@pytest.mark.parametrize("spec", [TINY, MHA], ids=["gqa", "mha-tied"])
def test_the_fp16_graph_builds_for_sm86_with_native_cache_rotary_and_attention(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    builder, network = parsed(artifact)
    assert_native(network, spec)
    assert built(builder, network, 64).nbytes > 2 * spec.parameters


@pytest.mark.parametrize("spec", [TINY, MHA, BIASED], ids=["gqa", "mha-tied", "biased"])
def test_the_int8_graph_builds_for_sm86_with_every_scale_kept(tmp_path, spec):
    artifact = export_tiny(tmp_path, "int8", spec)
    builder, network = parsed(artifact)
    assert_native(network, spec)
    layers = layers_of(network)
    assert layers["QUANTIZE"] == 4 * spec.layers
    assert layers["DEQUANTIZE"] == 8 * spec.layers
    assert built(builder, network, 64).nbytes > 0


@pytest.mark.slow
def test_smollm2_in_int8_builds_for_sm86_and_is_stored_as_int8(tmp_path):
    preset = preset_of_size("135m")
    request = ExportRequest(
        weights=locate(None, preset),
        folder=tmp_path / "out",
        precision=PRECISIONS["int8"],
        preset=preset,
        calibration_windows=1,
    )
    artifact, _ = export(request)
    builder, network = parsed(artifact)
    assert_native(network, preset.spec)
    engine = built(builder, network, 512)
    # Dequantized, the projections alone would be 212 MB beside 57 MB of the table.
    assert engine.nbytes < 1.25 * artifact.manifest.files["weights.safetensors"].bytes
