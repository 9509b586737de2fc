"""params.json: every value typed, any size exported, the context and RoPE's factor as known."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.export import export
from llx.exporter.request import ExportRequest
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.meta_params import PLAIN, Params, params_of, spec_of
from llx.llama.presets import preset_named
from llx.llama.spec import RopeSpec
from llx.precision import PRECISIONS
from tests.checkpoints import MHA, TINY, random_tensors, write_meta
from tests.exporter.sources.opened import opened

TENSORS = random_tensors(TINY)
# Neither the context nor RoPE's scaling is in the file.
UNSAID = replace(TINY, dim=60, context=2048)


def write(folder, spec=UNSAID, shards=1, **changes):
    write_meta(folder, spec, random_tensors(spec), shards)
    params = json.loads((folder / "params.json").read_text()) | changes
    params = {key: value for key, value in params.items() if value is not ...}
    (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_size_that_is_no_known_model_is_exported(tmp_path, shards, axis):
    write_meta(tmp_path, UNSAID, random_tensors(UNSAID), shards, axis)
    source = open_source(tmp_path)
    assert source.spec == UNSAID
    assert set(check_coverage(source)) == {"rotary_emb.inv_freq"}
    assert len(source.warnings) == 1
    assert "2048 is taken, and --context says another" in source.warnings[0]


def test_the_context_that_is_asked_for_is_the_models(tmp_path):
    source = open_source(write(tmp_path), None, 4096)
    assert source.spec.context == 4096
    assert source.warnings == []


def test_the_context_of_the_command_line_reaches_the_artifact(tmp_path):
    request = ExportRequest(
        weights=write(tmp_path / "in"),
        folder=tmp_path / "out",
        precision=PRECISIONS["fp32"],
        context=2500,
    )
    manifest = export(request)[0].manifest
    assert (manifest.spec.context, manifest.contract.limits.capacity) == (2500, 2500)


def test_theta_and_epsilon_are_the_files(tmp_path):
    spec = open_source(write(tmp_path, rope_theta=1000000, norm_eps=1e-6)).spec
    assert (spec.rope, spec.norm_eps) == (RopeSpec(theta=1e6), 1e-6)


def test_without_theta_it_is_that_of_the_reference_code(tmp_path):
    assert open_source(write(tmp_path, rope_theta=...)).spec.rope == RopeSpec(theta=10000.0)


def test_scaled_rope_of_an_unknown_size_is_llama_3_1s_and_said(tmp_path):
    source = open_source(write(tmp_path, rope_theta=5e5, use_scaled_rope=True))
    assert source.spec.rope == preset_named("llama-3.1-8b").spec.rope
    assert source.spec.context == 131072
    assert any("factor: 8 is taken" in line for line in source.warnings)


def test_a_factor_that_the_file_says_is_its_own(tmp_path):
    scaled = {"use_scaled_rope": True, "rope_scaling_factor": 16, "rope_high_freq_factor": 2.0}
    rope = open_source(write(tmp_path, **scaled)).spec.rope
    assert (rope.factor, rope.high_freq_factor) == (16.0, 2.0)


def params_like(spec, **changes):
    values = {
        "dim": spec.dim,
        "n_layers": spec.layers,
        "n_heads": spec.heads,
        "n_kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "use_scaled_rope": spec.rope.type == "llama3",
    }
    return Params(**values | changes)


@pytest.mark.parametrize("preset", PLAIN, ids=lambda preset: preset.name)
def test_sizes_of_a_known_model_give_its_spec(preset):
    spec, told = preset.spec, []
    found = spec_of(params_like(spec), spec.ffn_dim, spec.vocab, spec.tied, None, told.append)
    assert (found, told) == (spec, [])


def test_a_model_with_parts_that_the_file_cannot_say_is_none_of_the_known():
    """Qwen3-8B's sizes are a LLaMA's too: without its norms it is another model."""
    spec, told = preset_named("qwen3-8b").spec, []
    found = spec_of(params_like(spec), spec.ffn_dim, spec.vocab, spec.tied, 4096, told.append)
    assert (found.parts, found.qk_norm, found.context) == (frozenset(), False, 4096)


def test_a_known_model_with_more_tokens_keeps_its_rope_and_context():
    spec, told = preset_named("llama-3.2-1b").spec, []
    found = spec_of(params_like(spec), spec.ffn_dim, spec.vocab + 8, True, None, told.append)
    assert found == replace(spec, vocab=spec.vocab + 8)
    assert found.rope.factor == 32.0
    assert len(told) == 1


def test_without_a_head_the_table_is_tied(tmp_path):
    spec = replace(MHA, dim=60, context=2048)
    assert open_source(write(tmp_path, spec)).spec == spec


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_theta": 1e6}, "rope_theta 1000000.0, where the model that was named has 10000.0"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-06"),
        ({"use_scaled_rope": True}, "use_scaled_rope True"),
        ({"n_kv_heads": None}, "n_kv_heads 6, where"),
        ({"dim": 72}, "dim 72"),
    ],
)
def test_a_named_model_must_be_that_of_the_file(tmp_path, change, says):
    with pytest.raises(BadInput, match=says):
        open_source(write(tmp_path, TINY, **change), TINY)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"moe": {"num_experts": 8}}, "has moe: the checkpoint is a mixture of experts"),
        ({"quantization_args": {"group_size": 32}}, "is quantized"),
        ({"vision_num_cross_attention_layers": 8}, "a model of images"),
        ({"dim": ...}, "params.json's dim is missing"),
        ({"n_heads": 7}, "does not describe a LLaMA"),
    ],
)
def test_what_is_no_llama_is_refused_by_its_value(tmp_path, change, says):
    with pytest.raises(BadInput, match=says):
        open_source(write(tmp_path, **change))


def test_a_value_that_is_not_read_is_said(tmp_path):
    source = open_source(write(tmp_path, sliding_window=4096, vision_chunk_size=-1), None, 2048)
    assert len(source.warnings) == 1
    assert "sliding_window, which no LLaMA reads" in source.warnings[0]


VALUES = (
    *(None, True, False, 0, 1, -1, 6, 7, 10**9, 2**63, 10**30, 0.0, 1.0, 6.0, 1e-5, -1.0, 1e300),
    *(math.nan, math.inf, "", "6", "a\nb", "\ud800", [], [6], {}, {"a": 1}, ...),
)
KEYS = (*Params.__struct_fields__, "multiple_of", "ffn_dim_multiplier", "moe", "new")
GRID = list(itertools.product(KEYS, VALUES))
# What an absent or null value of these means is the reference code's; others have to be there.
NUMBERS = {"rope_theta": 1.0, "norm_eps": 1e-5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("meta"))


def hold(key, value, checkpoint, as_written):
    """Whatever a value is, one line that names it, or the spec that it describes."""
    params = {k: v for k, v in (as_written | {key: value}).items() if v is not ...}
    (checkpoint / "params.json").write_text(json.dumps(params))
    source = opened(checkpoint, None, 2048)
    if isinstance(source, BadInput):
        words = (key, "the model needs", "lacks", "has no place for", "KV heads", "head_dim")
        assert any(word in str(source) for word in words), (key, value, source)
        return "refused"
    spec = source.spec
    meant = params.get(key)
    if key in ("norm_eps", "rope_theta") and meant is not None:
        found = spec.norm_eps if key == "norm_eps" else spec.rope.theta
        assert type(meant) in (int, float), (key, value)
        assert found == meant, (key, value)
        spec = replace(spec, norm_eps=UNSAID.norm_eps, rope=RopeSpec())
    if key == "use_scaled_rope" and meant:
        assert value is True
        spec = replace(spec, rope=RopeSpec())
    assert spec == UNSAID, (key, value)
    return "read"


AS_WRITTEN = {
    "dim": UNSAID.dim,
    "n_layers": UNSAID.layers,
    "n_heads": UNSAID.heads,
    "n_kv_heads": UNSAID.kv_heads,
    "head_dim": UNSAID.head_dim,
    "norm_eps": UNSAID.norm_eps,
    "rope_theta": 10000.0,
    "multiple_of": 4,
    "vocab_size": -1,
}


@given(st.sampled_from(GRID))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_is_refused_by_name_or_read(checkpoint, change):
    hold(*change, checkpoint, AS_WRITTEN)


@pytest.mark.slow
def test_every_value_is_refused_by_name_or_read(checkpoint):
    ends = [hold(*change, checkpoint, AS_WRITTEN) for change in GRID]
    print(f"{len(ends)} values: {ends.count('read')} read, {ends.count('refused')} refused")
    assert {"read", "refused"} == set(ends)


def test_params_that_metas_files_have_are_silent(tmp_path):
    told = []
    llama_3_2 = {
        "dim": 2048,
        "ffn_dim_multiplier": 1.5,
        "multiple_of": 256,
        "n_heads": 32,
        "n_kv_heads": 8,
        "n_layers": 16,
        "norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "use_scaled_rope": True,
        "vocab_size": 128256,
    }
    params = params_of(llama_3_2, tmp_path, told.append)
    spec = spec_of(params, 8192, 128256, False, None, told.append)
    assert (spec, told) == (preset_named("llama-3.2-1b").spec, [])


def test_a_checkpoint_without_its_first_layer_is_refused(tmp_path):
    write(tmp_path)
    torch.save({"norm.weight": torch.ones(60)}, tmp_path / "consolidated.00.pth")
    with pytest.raises(BadInput, match="no complete Meta checkpoint"):
        open_source(tmp_path)
