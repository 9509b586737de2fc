"""LLaMA's kin in GGUF files: what each architecture leaves unsaid, and what is refused by name."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import gguf
import msgspec
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.load import llama_from_source
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.gguf_architectures import ARCHITECTURES
from llx.exporter.sources.gguf_keys import RopeKeys
from llx.llama.spec import RopeSpec
from tests.checkpoints import (
    BIASED,
    KIN,
    LINEAR,
    SIXTEENS,
    TINY,
    YARN,
    config_of,
    fused_as_phi3,
    random_tensors,
    torch_dice,
    write_gguf,
)
from tests.exporter.sources.opened import opened
from tests.exporter.sources.test_gguf_keys import VALUES, of
from tests.llama.test_model import in_steps

# As transformers computes it of a context of 192, twice the original one.
PAPERS = math.sqrt(1 + math.log(2) / math.log(96))
LONGROPE = RopeSpec(
    type="longrope", original_context=96, attention_factor=PAPERS, short_factors=(1.0, 1.5, 2.25)
)
PHI3 = replace(TINY, rotary_dim=6, window=7, windowed=(0, 1), rope=LONGROPE)
GRANITE = replace(TINY, **KIN["scales"])
# Sizes that blocks of 32 fit into, and a head that transformers' own reader finds.
WIDE = replace(TINY, dim=64, heads=4, kv_heads=2, head_dim=16, ffn_dim=96)


def write(path, spec, architecture=None, tensors=None, kind="f32", **changes):
    """A file with keys below its architecture changed, dots spelled as two underscores."""

    def describe(writer):
        prefix = writer.kv_data[0]["general.architecture"].value
        for name, value in changes.items():
            key = f"{prefix}.{name.replace('__', '.')}"
            if value is None:
                writer.kv_data[0].pop(key, None)
            else:
                writer.kv_data[0][key] = value

    tensors = random_tensors(spec) if tensors is None else tensors
    return write_gguf(path, spec, tensors, kind, describe, architecture)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "kin.gguf"


AS = {
    "llama": WIDE,
    "qwen2": replace(WIDE, qkv_bias=True),
    "qwen3": replace(WIDE, qk_norm=True),
}


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(("architecture", "spec"), AS.items())
def test_transformers_reads_the_same_rows_of_the_same_file(tmp_path, architecture, spec, kind):
    write(tmp_path / "kin.gguf", spec, architecture, kind=kind)
    config = config_of(spec)
    del config["architectures"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="kin.gguf",
        config=transformers.AutoConfig.for_model(**config),
        dtype=torch.float32,
    ).state_dict()
    source = open_source(tmp_path / "kin.gguf")
    assert theirs.keys() == source.tensors.keys()
    for name, tensor in theirs.items():
        assert torch.equal(source.read(name).float(), tensor), name


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_transformers_reads_the_same_fused_projections_of_phi_3(tmp_path, kind):
    write(tmp_path / "phi.gguf", WIDE, "phi3", kind=kind)
    config = config_of(WIDE) | {"pad_token_id": 0}
    del config["architectures"], config["model_type"], config["head_dim"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="phi.gguf",
        config=transformers.Phi3Config(**config),
        dtype=torch.float32,
    ).state_dict()
    source = open_source(tmp_path / "phi.gguf")
    assert source.spec == WIDE
    assert check_coverage(source) == {}
    layer = "model.layers.1."
    for fused, parts in (
        ("self_attn.qkv_proj", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        ("mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"]),
    ):
        ours = torch.cat([source.read(f"{layer}{part}.weight").float() for part in parts])
        assert torch.equal(theirs[f"{layer}{fused}.weight"], ours)


def test_a_block_of_a_fused_projection_is_a_block_of_its_part(file):
    tensors = random_tensors(WIDE)
    source = open_source(write(file, WIDE, "phi3", tensors))
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            found = source.read(name, slice(3, 29), slice(0, 32))
            assert torch.equal(found, tensor[3:29, :32]), name
            assert torch.equal(source.read(name), tensor), name


def test_phi_3_within_its_original_context(file):
    tensors = random_tensors(PHI3)
    source = open_source(write(file, PHI3, tensors=tensors, context_length=of(192)))
    assert source.spec == PHI3
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())
    assert check_coverage(source) == {
        "rope_factors_long.weight": "RoPE beyond the original context"
    }
    (told,) = source.warnings
    assert "has a context of 192, of which 96 are exported" in told


def test_phi_3_of_a_file_answers_as_transformers_phi_3(file):
    """Fused projections, a part of each head that turns by factors of its own, and a window."""
    short = [1.0, 1.25, 1.5, 2.0, 3.0, 5.0]
    rope = replace(LONGROPE, short_factors=tuple(short))
    spec = replace(WIDE, rotary_dim=12, window=7, windowed=(0, 1), rope=rope)
    tensors = random_tensors(spec)
    config = transformers.Phi3Config(
        **{k: v for k, v in config_of(spec).items() if k not in ("architectures", "model_type")}
        | {
            "max_position_embeddings": 192,
            "original_max_position_embeddings": 96,
            "partial_rotary_factor": 0.75,
            "pad_token_id": 0,
            "sliding_window": 7,
            "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": [9.0] * 6},
            "attn_implementation": "eager",
        }
    )
    theirs = transformers.Phi3ForCausalLM(config).eval()
    fused = {
        name.replace("attn_qkv", "self_attn.qkv_proj").replace("ffn_up", "mlp.gate_up_proj"): t
        for name, t in fused_as_phi3(tensors).items()
    }
    theirs.load_state_dict(fused)
    ours = llama_from_source(open_source(write(file, spec, None, tensors, context_length=of(192))))
    ids = torch.randint(0, spec.vocab, (1, 36), generator=torch_dice())
    with torch.no_grad():
        found, _ = in_steps(ours, ids, [7, 16, *range(17, 37)])
        wanted = theirs(ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_phi_3_of_one_context_has_nothing_told_and_no_needless_window(file):
    spec = replace(PHI3, rope=RopeSpec(), window=None, windowed=())
    changes = {
        "attention__sliding_window": of(96),
        "rope__scaling__original_context_length": of(96),
    }
    source = open_source(write(file, spec, "phi3", **changes))
    assert (source.spec, source.warnings) == (spec, [])


def test_an_attention_factor_that_is_not_the_papers_is_taken_as_it_is(file):
    changes = {"context_length": of(192), "rope__scaling__attn_factor": of(1.25)}
    assert open_source(write(file, PHI3, **changes)).spec.rope.attention_factor == 1.25


@pytest.mark.parametrize(("layers", "nope"), [(3, ()), (4, (3,)), (9, (3, 7))])
def test_every_fourth_layer_of_smollm3_does_not_turn(file, layers, nope):
    spec = replace(TINY, layers=layers)
    source = open_source(write(file, spec, "smollm3"))
    assert source.spec == replace(spec, nope=nope)
    assert check_coverage(source) == {}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"embedding_scale": None}, {"embed_scale": 1.0}),
        ({"embedding_scale": of(0.0)}, {"embed_scale": 1.0}),
        ({"residual_scale": None}, {"residual_scale": 1.0}),
        ({"attention__scale": None}, {"attention_scale": None}),
        ({"logit_scale": of(16.0)}, {"logit_scale": 1 / 16}),
        ({"rope__scaling__finetuned": of(True)}, {}),
    ],
)
def test_granites_multipliers_are_llama_cpps(file, changes, parts):
    source = open_source(write(file, GRANITE, **changes))
    assert (source.spec, source.warnings) == (replace(GRANITE, **parts), [])


def test_a_granite_4_without_experts_and_state_space_layers_is_a_granite(file):
    """The converter writes what its kind may have; llama.cpp reads none of it then."""
    left = {"expert_count": of(0), "expert_shared_feed_forward_length": of(52)}
    left |= {"ssm__conv_kernel": of(4), "ssm__state_size": of(128), "ssm__time_step_rank": of(48)}
    left |= {"ssm__group_count": of(1), "ssm__inner_size": of(72)}
    left |= {"attention__head_count_kv": of([2, 2]), "rope__scaling__finetuned": of(True)}
    source = open_source(write(file, GRANITE, **left))
    assert (source.spec, source.warnings) == (GRANITE, [])


@pytest.mark.parametrize(
    ("spec", "architecture"),
    [
        (replace(BIASED, **KIN["scales"]), "granite"),
        (replace(TINY, qkv_bias=True), "llama"),
        (replace(BIASED, mlp_bias=False, qk_norm=True), "qwen3"),
        (BIASED, "mistral3"),
        (LINEAR, "mistral3"),
        (YARN, "qwen2"),
        (replace(YARN, qk_norm=True), "qwen3"),
        (replace(SIXTEENS, tied=True), "qwen2"),
    ],
)
def test_parts_that_an_architecture_may_have(file, spec, architecture):
    tensors = random_tensors(spec)
    source = open_source(write(file, spec, architecture, tensors))
    assert (source.spec, source.warnings, check_coverage(source)) == (spec, [], {})
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())


KIN_NAMES = r"\(granite, mistral3, phi3, qwen2, qwen3, smollm3\)"


@pytest.mark.parametrize(
    "name", ["qwen3moe", "qwen2moe", "gemma2", "mamba", "phi2", "phimoe", "granitemoe", "llama4"]
)
def test_another_architecture_is_refused_by_its_name(file, name):
    with pytest.raises(BadInput) as refused:
        open_source(write(file, TINY, name))
    assert "\n" not in str(refused.value)
    assert refused.match(rf"architecture is {name}, not llama or its kin {KIN_NAMES}")


@pytest.mark.parametrize(
    ("architecture", "spec", "changes", "says"),
    [
        ("llama", TINY, {"expert_count": of(8)}, r"has llama\.expert_count 8: a mixture of exp"),
        ("granite", GRANITE, {"expert_count": of(32)}, r"granite\.expert_count 32: a mixture"),
        (
            "mistral3",
            TINY,
            {"attention__temperature_scale": of(0.1)},
            r"mistral3\.attention\.temperature_scale 0\.1: attention sharpens with the position",
        ),
        ("mistral3", YARN, {}, "RoPE scaling 'yarn' is not supported in a GGUF file"),
        ("qwen2", TINY, {"block_count": None}, r"qwen2\.block_count is missing"),
        ("qwen3", TINY, {"attention__value_length": of(8)}, r"qwen3\.attention\.value_length"),
        ("qwen3", TINY, {}, "self_attn.k_norm.weight"),
        ("qwen2", replace(TINY, qk_norm=True), {}, "k_norm"),
        ("granite", GRANITE, {"logit_scale": None}, r"granite\.logit_scale is missing"),
        ("granite", GRANITE, {"logit_scale": of(0.0)}, "logits are divided by it"),
        ("granite", GRANITE, {"rope__scaling__finetuned": of(False)}, "no layer has RoPE"),
        ("qwen2", TINY, {"rope__dimension_count": of(8)}, "rotates 8 of the 10"),
        ("phi3", TINY, {"rope__dimension_count": of(12)}, "rotates 12 of the 10"),
        ("phi3", TINY, {"rope__dimension_count": of(5)}, "rotary_dim must be even"),
        ("phi3", PHI3, {"rope__scaling__type": of("yarn")}, "scaled twice, by yarn and by rope_f"),
        ("phi3", PHI3, {"rope__dimension_count": of(8)}, "a factor for each of the 4 pairs"),
        ("phi3", TINY, {"rope__scaling__attn_factor": of(1.25)}, r"attn_factor is 1\.25"),
        ("qwen2", PHI3, {"rope__scaling__attn_factor": None}, "rope_factors_long"),
    ],
)
def test_what_kin_cannot_be_is_refused_by_its_name(file, architecture, spec, changes, says):
    found = opened(write(file, spec, architecture, **changes))
    assert isinstance(found, BadInput)
    assert re.search(says, str(found)), found


def test_experts_of_a_llama_that_says_nothing_of_them_are_refused(file):
    def describe(writer):
        writer.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((4, 36), np.float32))

    found = opened(write_gguf(file, TINY, random_tensors(TINY), describe=describe))
    assert "it is a mixture of experts" in str(found)


@pytest.mark.parametrize("lacking", ["rope_factors_long.weight", "rope_factors_short.weight"])
def test_one_of_the_tables_of_longrope_alone_is_refused(file, lacking, monkeypatch):
    real = gguf.GGUFWriter.add_tensor

    def add(writer, name, *more, **others):
        if name != lacking:
            real(writer, name, *more, **others)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add)
    with pytest.raises(BadInput, match=f"RoPE has .*, and no {lacking}"):
        open_source(write(file, PHI3))


def test_rows_that_a_fused_projection_has_too_many_are_refused(file):
    tensors = random_tensors(WIDE)
    name = "model.layers.1.self_attn.v_proj.weight"
    tensors[name] = torch.cat([tensors[name], tensors[name][:5]])
    found = opened(write(file, WIDE, "phi3", tensors))
    assert isinstance(found, BadInput)
    assert name in str(found)


SPECS = {
    "granite": GRANITE,
    "mistral3": TINY,
    "phi3": replace(PHI3, rope=replace(LONGROPE, attention_factor=1.25)),
    "qwen2": replace(TINY, qkv_bias=True),
    "qwen3": replace(TINY, qk_norm=True),
    "smollm3": replace(TINY, layers=4, nope=(3,)),
}
GRID = [
    (name, key, value)
    for name in SPECS
    for key, value in itertools.product(
        [
            *(f.encode_name for f in msgspec.structs.fields(ARCHITECTURES[name].keys)),
            *(f"rope.{f.encode_name}" for f in msgspec.structs.fields(RopeKeys)),
        ],
        VALUES,
    )
]
# Fields of the spec that a key decides: with it they may be others, nothing else may.
DECIDES = {
    "context_length": {"context", "rope", "window", "windowed"},
    "attention.layer_norm_rms_epsilon": {"norm_eps"},
    "attention.sliding_window": {"window", "windowed"},
    "attention.scale": {"attention_scale"},
    "embedding_scale": {"embed_scale"},
    "residual_scale": {"residual_scale"},
    "logit_scale": {"logit_scale"},
    "rope.dimension_count": {"rotary_dim"},
    "rope.scaling.original_context_length": {"context", "rope", "window", "windowed"},
}
WORDS = (
    "pairs of a head",
    "model needs",
    "lacks",
    "holds",
    "RoPE",
    "KV heads",
    "heads",
    "head_dim",
    "rotary_dim",
)


def hold(folder, architecture, key, stored):
    value, kind = stored
    spec = SPECS[architecture]
    changed = None if value is None else of(value, kind)
    path = write(folder / "kin.gguf", spec, architecture, **{key.replace(".", "__"): changed})
    source = opened(path)
    case = (architecture, key, stored)
    if isinstance(source, BadInput):
        leaf = key.rsplit(".", 1)[-1]
        assert any(word in str(source) for word in (leaf, *WORDS)), (case, source)
        return
    may = DECIDES.get(key, {"rope"} if key.startswith("rope.") else set())
    for field in spec.__dataclass_fields__:
        one = getattr(source.spec, field)
        assert field in may or one == getattr(spec, field), (case, field, one)


@given(st.sampled_from(GRID))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_any_key_of_kin_is_refused_by_name_or_read(tmp_path_factory, change):
    hold(tmp_path_factory.mktemp("kin"), *change)


@pytest.mark.slow
def test_every_value_of_every_key_of_kin_is_refused_by_name_or_read(tmp_path):
    for change in GRID:
        hold(tmp_path, *change)
