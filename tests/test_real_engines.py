"""Engines of SmolLM2-135M-Instruct, built by TensorRT-RTX with no GPU. Built, not run."""

from __future__ import annotations

import pytest

from llx.exporter.build import BuildRequest, build_engine
from llx.exporter.export import ExportRequest, export
from llx.exporter.locate import locate
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS

MOST_RATIO = 1.15  # of an engine's size to the weights': they are stored once


@pytest.fixture(scope="module", params=["fp16", "int8"])
def artifact(request, tmp_path_factory):
    preset = preset_of_size("135m")
    asked = ExportRequest(
        weights=locate(None, preset),
        folder=tmp_path_factory.mktemp("real") / request.param,
        precision=PRECISIONS[request.param],
        preset=preset,
        calibration_windows=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield export(asked)[0]


@pytest.mark.parametrize("sm", [80, 86, 89, 120])
def test_it_builds_for_a_chip_that_is_not_here_with_its_weights_stored_once(artifact, sm):
    engine, made = build_engine(artifact, BuildRequest(runtime="trt-rtx", sm=sm))
    layers, manifest = artifact.manifest.spec.layers, engine.manifest
    assert made
    assert engine.plan_bytes <= MOST_RATIO * manifest.weights_bytes
    assert manifest.layers["KV_CACHE_UPDATE"] == manifest.layers["ROTARY_EMBEDDING"] == 2 * layers
    assert manifest.layers["ATTENTION_INPUT"] == layers
    quantized = artifact.manifest.precision.linear == "int8"
    assert manifest.layers.get("QUANTIZE", 0) == (4 * layers if quantized else 0)


@pytest.mark.parametrize("artifact", ["fp16"], indirect=True)
def test_it_builds_from_the_decomposed_graph_too(artifact):
    request = BuildRequest(runtime="trt-rtx", sm=86, dialect="primitive")
    engine, _ = build_engine(artifact, request)
    assert engine.plan_bytes <= MOST_RATIO * engine.manifest.weights_bytes
    assert "KV_CACHE_UPDATE" not in engine.manifest.layers
