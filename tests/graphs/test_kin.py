"""LLaMA's kin in the graphs: each part costs a plain LLaMA nothing, and builds in TensorRT-RTX."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

import llx
from llx.graphs.dialects import DIALECTS
from llx.graphs.tensorrt_rules import require_buildable
from llx.llama.spec import LlamaSpec
from tests.checkpoints import KIN_SPECS, SPECS
from tests.conftest import export_tiny
from tests.graphs.test_tensorrt_rtx import built, parsed
from tests.graphs.test_tensorrt_rules import JETPACK_6, NEWEST, RTX

# The first digits of the SHA-256 of each graph, as they were before there was any kin.
PLAIN = json.loads((Path(__file__).parent / "plain.json").read_text())
GROUPED = {name: spec for name, spec in KIN_SPECS.items() if name.endswith("-of-16")}
every_part = pytest.mark.parametrize("name", GROUPED)


@pytest.mark.parametrize("made", sorted({name.rpartition(" ")[0] for name in PLAIN}))
def test_a_plain_llamas_graphs_are_what_they_were_byte_for_byte(tmp_path, made):
    name, precision = made.split(" ")
    artifact = export_tiny(tmp_path, precision, SPECS[name])
    found = {
        f"{made} {dialect}": hashlib.sha256(artifact.read(f"{dialect}.onnx")).hexdigest()[:16]
        for dialect in DIALECTS
    }
    assert found == {key: value for key, value in PLAIN.items() if key in found}


def layers_of(spec: LlamaSpec) -> dict[str, int]:
    """TensorRT's own layers that a graph of `standard` must become."""
    turned = sum(spec.kind_of(layer).rope for layer in range(spec.layers))
    return {
        "KV_CACHE_UPDATE": 2 * spec.layers,
        "ROTARY_EMBEDDING": 2 * turned,
        "ATTENTION_INPUT": spec.layers,
    }


@every_part
def test_a_part_builds_for_sm86_with_native_cache_rotary_and_attention(tmp_path, name):
    spec = GROUPED[name]
    artifact = export_tiny(tmp_path, "fp16", spec)
    for target in (RTX, NEWEST, JETPACK_6):
        require_buildable(artifact.graph(target.dialect), target)
    layers = parsed(artifact.path("standard.onnx"))[2]
    assert {kind: layers[kind] for kind in layers_of(spec)} == layers_of(spec)
    assert built(artifact, "standard").nbytes > 2 * spec.parameters


@pytest.mark.slow
@every_part
def test_a_part_builds_for_sm86_in_int8_and_decomposed(tmp_path, name):
    spec = GROUPED[name]
    artifact = export_tiny(tmp_path, "int8", spec)
    layers = parsed(artifact.path("standard.onnx"))[2]
    assert layers["QUANTIZE"] == 4 * spec.layers
    assert layers["DEQUANTIZE"] == 8 * spec.layers
    for dialect in ("standard", "primitive"):
        assert built(artifact, dialect).nbytes > spec.parameters


# The sizes of a layer, and one or two of them; the vocabulary is none of it.
QWEN3 = replace(
    SPECS["gqa"],
    **{"layers": 2, "dim": 1024, "heads": 16, "kv_heads": 8, "head_dim": 128, "ffn_dim": 3072},
    qk_norm=True,
)
MISTRAL = replace(
    SPECS["gqa"],
    **{"layers": 1, "dim": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn_dim": 14336},
    window=64,
    windowed=(0,),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("spec", [QWEN3, MISTRAL], ids=["qwen3-0.6b", "mistral-7b"])
def test_layers_of_published_sizes_build_for_sm86(tmp_path, spec, precision):
    if precision == "int8" and spec is MISTRAL:  # whose Gram matrix takes minutes on two cores
        spec = replace(spec, ffn_dim=3584)
    artifact = export_tiny(tmp_path, precision, spec)
    assert built(artifact, "standard").nbytes > spec.parameters


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@every_part
def test_every_op_of_a_part_is_right_in_every_graph(tmp_path, name, precision):
    lines = llx.check(export_tiny(tmp_path, precision, GROUPED[name]), verbose=True)
    assert sum(line.startswith("op by op") for line in lines) == len(DIALECTS)
