"""LLaMA's kin by their config.json: real files, what is told of them, what each key means."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llx.errors import BadInput
from llx.llama.config import spec_from_config
from llx.llama.families import FAMILIES
from tests.checkpoints import KIN_SPECS, TINY, config_of

COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "tie_word_embeddings": False,
}


def sizes(hidden, intermediate, layers, heads, kv_heads, vocab, context, **more):
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": more.pop("eps", 1e-5),
        **more,
    }


def named(kind, name, **more):
    return {"architectures": [f"{name}ForCausalLM"], "model_type": kind, **COMMON, **more}


MISTRAL = named(
    "mistral",
    "Mistral",
    **sizes(4096, 14336, 32, 32, 8, 32000, 32768),
    rope_theta=10000.0,
    sliding_window=4096,
)
QWEN2 = named(
    "qwen2",
    "Qwen2",
    **sizes(896, 4864, 24, 14, 2, 151936, 32768, eps=1e-6),
    max_window_layers=21,
    rope_theta=1000000.0,
    sliding_window=32768,
    use_mrope=False,
    use_sliding_window=False,
)
QWEN3 = named(
    "qwen3",
    "Qwen3",
    **sizes(1024, 3072, 28, 16, 8, 151936, 40960, eps=1e-6),
    attention_bias=False,
    head_dim=128,
    max_window_layers=28,
    rope_scaling=None,
    rope_theta=1000000,
    sliding_window=None,
    use_sliding_window=False,
)
GRANITE = named(
    "granite",
    "Granite",
    **sizes(2048, 8192, 40, 32, 8, 49159, 131072),
    attention_bias=False,
    attention_multiplier=0.015625,
    embedding_multiplier=12.0,
    logits_scaling=8.0,
    mlp_bias=False,
    residual_multiplier=0.22,
    rope_scaling=None,
    rope_theta=10000000.0,
)
SMOLLM3 = named(
    "smollm3",
    "SmolLM3",
    **sizes(2048, 11008, 36, 16, 4, 128256, 65536, eps=1e-6),
    attention_bias=False,
    layer_types=["full_attention"] * 36,
    max_window_layers=28,
    mlp_bias=False,
    no_rope_layer_interval=4,
    no_rope_layers=[1, 1, 1, 0] * 9,
    pretraining_tp=2,
    rope_scaling=None,
    rope_theta=5000000.0,
    sliding_window=None,
    use_sliding_window=False,
)
LONGROPE = {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"}
PHI4_MINI = named(
    "phi3",
    "Phi3",
    **sizes(3072, 8192, 32, 24, 8, 200064, 131072),
    attention_bias=False,
    embd_pdrop=0.0,
    full_attn_mod=1,
    interpolate_factor=1,
    lm_head_bias=False,
    mlp_bias=False,
    original_max_position_embeddings=4096,
    partial_rotary_factor=0.75,
    resid_pdrop=0.0,
    rope_scaling=LONGROPE,
    rope_theta=10000.0,
    sliding_window=262144,
)
PHI3_MINI = named(
    "phi3",
    "Phi3",
    **sizes(3072, 8192, 32, 32, 32, 32064, 4096),
    embd_pdrop=0.0,
    original_max_position_embeddings=4096,
    resid_pdrop=0.0,
    rope_scaling=None,
    rope_theta=10000.0,
    sliding_window=2047,
)
SEED_OSS = named(
    "seed_oss",
    "SeedOss",
    **sizes(5120, 27648, 64, 80, 8, 155136, 524288, eps=1e-6),
    attention_bias=True,
    attention_out_bias=False,
    head_dim=128,
    mlp_bias=False,
    residual_dropout=0.1,
    rope_scaling={"rope_type": "default"},
    rope_theta=10000000.0,
)
MINICPM = named(
    "minicpm",
    "MiniCPM",
    **sizes(2304, 5760, 40, 36, 36, 122753, 2048),
    dim_model_base=256,
    rope_scaling=None,
    rope_theta=10000.0,
    scale_depth=1.4,
    scale_emb=12,
)
REAL = {
    "Mistral 7B": (MISTRAL, {"window": 4096, "windowed": tuple(range(32))}),
    "Mistral 7B v0.3": (MISTRAL | {"sliding_window": None, "rope_theta": 1e6}, {"window": None}),
    "Mistral Nemo": (MISTRAL | {"sliding_window": None, "head_dim": 160}, {"head_dim": 160}),
    "Qwen2.5": (QWEN2, {"qkv_bias": True, "attention_bias": False, "window": None}),
    "Qwen3": (QWEN3, {"qk_norm": True, "head_dim": 128, "qkv_bias": False}),
    "Granite 3.3": (GRANITE, {"attention_scale": 0.015625, "logit_scale": 0.125}),
    "SmolLM3": (SMOLLM3, {"nope": tuple(range(3, 36, 4)), "window": None}),
    "Seed-OSS": (SEED_OSS, {"qkv_bias": True, "attention_bias": False, "head_dim": 128}),
    "MiniCPM": (MINICPM, {"embed_scale": 12.0, "attention_scale": None}),
    "Phi-3-mini": (PHI3_MINI, {"rotary_dim": None, "window": 2047, "context": 4096}),
}
CUT = "the context is cut from 131072 to 4096, LongRoPE's original_max_position_embeddings"


@pytest.mark.parametrize("name", REAL)
def test_a_real_config_is_read_without_a_warning(name):
    config, parts = REAL[name]
    told = []
    spec = spec_from_config(config, told.append)
    assert {part: getattr(spec, part) for part in parts} == parts
    assert told == []


def test_minicpm_is_a_granite_of_the_same_multipliers():
    """MiniCPM's own code: branches times scale_depth/√layers, logits over hidden/dim_model_base."""
    granite = config_of(KIN_SPECS["scales"]) | {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 1.4 / math.sqrt(TINY.layers),
        "logits_scaling": TINY.dim / 9,
        "attention_multiplier": TINY.head_dim**-0.5,
    }
    minicpm = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 9, "model_type": "minicpm"}
    assert spec_from_config(config_of(TINY) | minicpm | {"architectures": None}) == replace(
        spec_from_config(granite), attention_scale=None
    )


@pytest.mark.parametrize("spelt", ["longrope", "su", "yarn"])
def test_phi_4_mini_turns_a_part_of_each_head_and_ends_at_its_original_context(spelt):
    told = []
    config = PHI4_MINI | {"rope_scaling": LONGROPE | {"type": spelt}}
    spec = spec_from_config(config, told.append)
    assert (spec.rotary_dim, spec.head_dim, spec.context, spec.window) == (96, 128, 4096, None)
    assert spec.rope.type == "longrope"
    assert spec.rope.short_factors == (1.0,) * 48
    assert spec.rope.attention_factor == pytest.approx((1 + math.log(32) / math.log(4096)) ** 0.5)
    [line] = told
    assert line.startswith(CUT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01: of the 96 values"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        ({"partial_rotary_factor": None}, "partial_rotary_factor is None"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE scaling 'linear' is not"),
        ({"rope_scaling": LONGROPE | {"long_factor": [1.0]}}, "long_factor has 1 entries"),
        ({"rope_scaling": LONGROPE | {"short_factor": [0.0] * 48}}, "short_factor is"),
        ({"rope_scaling": LONGROPE}, "a factor for each of the 24 pairs"),
        ({"rope_scaling": LONGROPE, "original_max_position_embeddings": 1}, "is 1, whose log"),
    ],
)
def test_a_rope_that_phi_3_has_no_meaning_for_is_refused_by_its_key(change, says):
    base = PHI3_MINI | {"max_position_embeddings": 8192, "partial_rotary_factor": 0.5}
    with pytest.raises(BadInput, match=says):
        spec_from_config(base | change)


@pytest.mark.parametrize("spec", KIN_SPECS.values(), ids=KIN_SPECS)
def test_a_config_without_a_model_type_is_known_by_its_class(spec):
    config = {key: value for key, value in config_of(spec).items() if key != "model_type"}
    assert spec_from_config(config) == spec


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_without_a_class_is_known_by_its_model_type(kind):
    config = config_of(TINY) | {"architectures": None, "model_type": kind}
    config |= {"sliding_window": 8, "num_key_value_heads": 2}
    assert spec_from_config(config).dim == TINY.dim


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("Mistral 7B", {"attention_bias": True}, "attention_bias, which no Mistral reads"),
        ("Mistral 7B", {"layer_types": ["full_attention"] * 32}, "layer_types, which no Mistral"),
        ("Qwen2.5", {"embedding_multiplier": 2.0}, "embedding_multiplier, which no Qwen2 reads"),
        ("Granite 3.3", {"qk_norm": True}, "qk_norm, which no Granite reads"),
        ("Mistral 7B", {"slidng_window": 8}, r"slidng_window, which no Mistral"),
    ],
)
def test_a_key_that_its_family_does_not_read_is_told(name, change, says):
    told = []
    spec_from_config(REAL[name][0] | change, told.append)
    assert len(told) == 1
    assert says in told[0]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("Mistral 7B", "sliding_window", 4096),
        ("Mistral 7B", "num_key_value_heads", 8),
        ("Qwen3", "head_dim", 128),
        ("Granite 3.3", "attention_multiplier", 1.0),
        ("Granite 3.3", "logits_scaling", 1.0),
        ("SmolLM3", "rope_theta", "2e+06"),
    ],
)
def test_a_default_of_a_family_that_is_taken_is_told(name, key, value):
    told = []
    config = {one: what for one, what in REAL[name][0].items() if one != key}
    spec_from_config(config, told.append)
    [line] = told
    assert line.startswith(f"config.json does not say {key}: {value} is taken")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("Mistral 7B", {"sliding_window": 0}, "sliding_window is 0"),
        ("Mistral 7B", {"num_key_value_heads": None}, "num_key_value_heads is None"),
        ("Qwen3", {"head_dim": None}, "head_dim is None"),
        ("Qwen2.5", {"head_dim": None}, "head_dim is None"),
        ("SmolLM3", {"layer_types": ["full_attention"]}, "1 entries, and num_hidden_layers is 36"),
        ("SmolLM3", {"layer_types": ["conv"] * 36}, "layer_types has conv, which is neither"),
        ("SmolLM3", {"layer_types": ["sliding_attention"] * 36}, "sliding_window is not given"),
        ("SmolLM3", {"no_rope_layers": [1]}, "no_rope_layers has 1 entries"),
        ("SmolLM3", {"no_rope_layers": [0] * 36}, "RoPE in no layer"),
        ("Granite 3.3", {"logits_scaling": 0}, "logits_scaling is 0"),
        ("Granite 3.3", {"num_local_experts": 8}, "num_local_experts is 8: .*mixture of experts"),
    ],
)
def test_a_value_that_a_family_has_no_meaning_for_is_refused_by_its_key(name, change, says):
    with pytest.raises(BadInput, match=says) as refused:
        spec_from_config(REAL[name][0] | change)
    assert "\n" not in str(refused.value)
