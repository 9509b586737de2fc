"""Engines of SmolLM2-135M-Instruct, built by TensorRT-RTX with no GPU. Built, not run.

`make test` builds those of small models, in tests/graphs/test_tensorrt_rtx.py.
"""

from __future__ import annotations

import pytest

from llx.errors import BadInput
from llx.exporter.engines.build import BuildRequest, build_engine
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.request import ExportRequest
from llx.llama.presets import preset_of_size
from llx.precision import ROUNDS_INPUTS, precision_named

pytestmark = pytest.mark.slow
MOST_RATIO = 1.15  # of an engine's size to the weights': they are stored once
# What an engine holds beside weights, which is the same for few bits: 19 MiB in int8-wo and int4.
# A table or the linear layers stored twice would be more than twice that.
MOST_MORE = 24 << 20


@pytest.fixture(scope="module", params=["fp16", "int8"])
def artifact(request, tmp_path_factory):
    preset = preset_of_size("135m")
    named, _, vocab = request.param.partition("-vocab-")
    name, _, block = named.partition("-b")
    asked = ExportRequest(
        weights=locate(None, preset),
        folder=tmp_path_factory.mktemp("real") / request.param,
        precision=precision_named(name, block=int(block) if block else None, vocab=vocab or None),
        preset=preset,
        quantization=QuantizationRequest(windows=int(name in ROUNDS_INPUTS), dense_share=0.0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield export(asked)[0]


def assert_stored_once(artifact, sm):
    engine, made = build_engine(artifact, BuildRequest(runtime="trt-rtx", sm=sm))
    layers, manifest = artifact.manifest.spec.layers, engine.manifest
    assert made
    assert engine.plan_bytes <= MOST_RATIO * manifest.weights_bytes
    assert manifest.layers["KV_CACHE_UPDATE"] == manifest.layers["ROTARY_EMBEDDING"] == 2 * layers
    assert manifest.layers["ATTENTION_INPUT"] == layers
    quantized = artifact.manifest.precision.rounds_inputs
    assert manifest.layers.get("QUANTIZE", 0) == (4 * layers if quantized else 0)


@pytest.mark.parametrize("sm", [80, 86, 89, 120])
def test_it_builds_for_a_chip_that_is_not_here_with_its_weights_stored_once(artifact, sm):
    assert_stored_once(artifact, sm)


@pytest.mark.parametrize("sm", [89, 120])
@pytest.mark.parametrize("artifact", ["fp8"], indirect=True)
def test_fp8_builds_from_ada_on(artifact, sm):
    assert_stored_once(artifact, sm)


@pytest.mark.parametrize("artifact", ["fp8"], indirect=True)
def test_fp8_is_refused_for_ampere_before_it_is_built(artifact):
    with pytest.raises(BadInput, match="SM86 has no float8e4m3fn"):
        build_engine(artifact, BuildRequest(runtime="trt-rtx", sm=86))


def assert_weight_only(artifact, sm, dialect=None):
    """It builds; every weight is dequantized in the engine, and stored once in its few bits."""
    request = BuildRequest(runtime="trt-rtx", sm=sm, dialect=dialect)
    manifest = build_engine(artifact, request)[0].manifest
    assert manifest.files["engine.plan"].bytes <= manifest.weights_bytes + MOST_MORE
    # A table in int8 is dequantized twice: where it is looked up, and where it gives the logits.
    tables = 2 if artifact.manifest.precision.vocab == "int8" else 0
    assert manifest.layers["DEQUANTIZE"] == 4 * artifact.manifest.spec.layers + tables
    assert "QUANTIZE" not in manifest.layers
    native = 0 if dialect == "primitive" else artifact.manifest.spec.layers
    assert manifest.layers.get("ATTENTION_INPUT", 0) == native


@pytest.mark.parametrize("artifact", ["int4-b128-vocab-int8"], indirect=True)
def test_weights_alone_in_few_bits_build_too(artifact):
    assert_weight_only(artifact, 86)


@pytest.mark.parametrize("sm", [80, 120])
@pytest.mark.parametrize("artifact", ["int8-wo", "int4", "int4-b128"], indirect=True)
def test_weights_alone_in_few_bits_build_for_every_chip(artifact, sm):
    assert_weight_only(artifact, sm)


@pytest.mark.parametrize("artifact", ["int8-wo-vocab-int8", "int4-b64"], indirect=True)
def test_weights_alone_in_few_bits_build_from_the_decomposed_graph(artifact):
    assert_weight_only(artifact, 86, "primitive")


@pytest.mark.parametrize("artifact", ["int4"], indirect=True)
def test_int4_is_refused_for_turing_before_it_is_built(artifact):
    with pytest.raises(BadInput, match="SM75 has no int4"):
        build_engine(artifact, BuildRequest(runtime="trt-rtx", sm=75))


@pytest.mark.parametrize("artifact", ["fp16"], indirect=True)
def test_it_builds_from_the_decomposed_graph_too(artifact):
    request = BuildRequest(runtime="trt-rtx", sm=86, dialect="primitive")
    engine, _ = build_engine(artifact, request)
    assert engine.plan_bytes <= MOST_RATIO * engine.manifest.weights_bytes
    assert "KV_CACHE_UPDATE" not in engine.manifest.layers
