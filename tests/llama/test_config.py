"""config.json: typed, read as transformers reads it, and what is not read is said."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from msgspec import UNSET

from llx.errors import BadInput
from llx.llama.config import spec_from_config
from llx.llama.config_keys import READ, SILENT
from llx.llama.families import FAMILIES, LLAMA
from tests.checkpoints import TINY, config_of


def told_of(config):
    told = []
    return spec_from_config(config, told.append), told


LLAMA_32_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
# What the files of other releases and tools have beside it.
BESIDE = {
    "Llama 3.2": {},
    "SmolLM2": {
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"dtype": "q4"},
        "pad_token_id": 2,
    },
    "Llama 2": {"_name_or_path": "x", "pad_token_id": 0, "rope_scaling": None},
    "a distilled model": {"auto_map": {"AutoConfig": "x.Y"}, "quantization_config": None},
    "YaRN's authors": {
        "rope_scaling": {
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
            "finetuned": True,
        }
    },
    "transformers 5": {
        "dtype": "bfloat16",
        "rope_scaling": None,
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "a fine-tune": {"unsloth_version": "2024.9", "unsloth_fixed": True, "sliding_window": None},
    "generation": {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 4096},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_real_config_gives_no_warning(beside):
    assert told_of(LLAMA_32_1B | beside)[1] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embedding_multiplier": 12.0, "logits_scaling": 8.0}, "embedding_multiplier, logits_s"),
        ({"sliding_window": 32}, "sliding_window"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"scale_emb": 12}, "scale_emb"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not read"),
        ({"original_max_position_embeddings": 24}, "original_max_position_embeddings is not"),
        ({"rope_scaling": {"factor": 4.0}}, "has factor, which RoPE of type 'default'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "long_factor": [1]}}, "long_factor"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "default"}},
            "type 'linear' and rope_type 'default'",
        ),
        (
            {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters is not read",
        ),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta 10000.0 is not read"),
        ({"\n" + "x" * 1000: 1}, "config.json has "),
    ],
)
def test_a_key_that_does_nothing_is_said_in_one_line(change, says):
    _, told = told_of(config_of(TINY) | change)
    assert len(told) == 1
    assert says in told[0]
    assert "\n" not in told[0]
    assert len(told[0]) < 400


def test_a_size_that_is_left_out_is_transformers_default_and_is_said():
    config = config_of(TINY)
    for key in ("intermediate_size", "rms_norm_eps"):
        del config[key]
    spec, told = told_of(config)
    assert (spec.ffn_dim, spec.norm_eps) == (11008, 1e-6)
    assert [line.split(":")[0] for line in told] == [
        "config.json does not say intermediate_size",
        "config.json does not say rms_norm_eps",
    ]


def theirs_of(kind):
    """The fields of transformers' configuration class, by name."""
    from transformers import CONFIG_MAPPING

    return {field.name: field for field in dataclasses.fields(CONFIG_MAPPING[kind])}


# What transformers derives where the file does not say it, and we do as well.
DERIVED = {"head_dim": (None, UNSET)}


@pytest.mark.parametrize("kind", sorted(FAMILIES.keys() - {"minicpm"}))  # which has none there
def test_keys_and_defaults_of_a_family_are_those_of_its_installed_class(kind):
    family, theirs = FAMILIES[kind], theirs_of(kind)
    assert set(theirs) <= READ | SILENT | family.keys
    for key in family.keys:
        ours = getattr(family.config(), key)
        if key not in theirs:  # which transformers finds among what it was not told to look for
            assert not ours
            continue
        assert ours == theirs[key].default or ours in DERIVED.get(key, ()), key


def test_keys_of_generation_say_nothing():
    from transformers import GenerationConfig

    generation = GenerationConfig._get_default_generation_params()
    assert set(generation) <= READ | SILENT | LLAMA.keys
    assert set(inspect.signature(GenerationConfig().update).parameters) >= {"kwargs"}


GOOD_NAMES = [
    {"architectures": ["LLaMAForCausalLM"]},
    {"architectures": ["LlamaModel"]},
    {"architectures": ["LlamaForCausalLM", "Other"]},
    {"architectures": None},
    {"architectures": []},
    {"architectures": "LlamaForCausalLM"},
    {"model_type": None},
]


@pytest.mark.parametrize("names", GOOD_NAMES, ids=str)
def test_every_name_of_the_model_is_taken(names):
    config = {k: v for k, v in (config_of(TINY) | names).items() if k != "model_type" or v}
    assert told_of(config) == (TINY, [])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "is LlamaForSequenceClassif"),
        ({"architectures": ["YiForCausalLM"], "model_type": "Yi"}, "is YiForCausalLM, not Llama"),
        ({"model_type": "mistral"}, "model_type is mistral, not llama"),
        ({"architectures": None, "model_type": "other"}, "is other, not LlamaForCausalLM"),
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM, not LlamaForCausalLM"),
        (
            {"architectures": ["MistralForTokenClassification"], "model_type": "mistral"},
            "MistralForTokenClassification, not MistralForCausalLM",
        ),
        ({"architectures": None, "model_type": None}, "names no model_type and no architecture"),
        ({"architectures": 5}, "architectures is 5"),
        ({"architectures": [5]}, r"architectures is \[5\]"),
        ({"architectures": {"a": 1}}, "architectures is"),
        ({"model_type": 5}, "model_type is 5"),
        ({"model_type": "a\nb"}, r"model_type is a\\nb"),
        (
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "text_config": {"model_type": "llama"},
            },
            "LlavaForConditionalGeneration, not .* holds a language model",
        ),
        ({"text_config": {"model_type": "llama"}}, "text_config wraps"),
        ({"per_layer_config": {"0": {"num_key_value_heads": 1}}}, "per_layer_config"),
        ({"is_causal": False}, "is_causal is False"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantized \(fp8\)"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"load_in_8bit": True}}, r"quantized \(quantization_config\)"),
        ({"quantization_config": "gptq"}, r"quantized \(quantization_config\)"),
        ({"compression_config": {"format": "dense"}}, r"quantized \(compression_config\)"),
        ({"hidden_size": 40, "head_dim": None}, "hidden_size 40 is no multiple"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, an integer"),
    ],
)
def test_another_model_is_refused_by_its_name(names, says):
    with pytest.raises(BadInput, match=says) as refused:
        spec_from_config(config_of(TINY) | names)
    assert "\n" not in str(refused.value)
    message = refused.value.message
    assert "LlamaForCausalLM, not LlamaForCausalLM" not in message


def test_an_epsilon_of_zero_is_zero():
    assert spec_from_config(config_of(TINY) | {"rms_norm_eps": 0.0}).norm_eps == 0.0


def test_no_number_is_too_large_to_be_refused_at_once():
    sizes = {"hidden_size": 10**9, "intermediate_size": 10**9, "num_hidden_layers": 10**9}
    with pytest.raises(BadInput, match="hidden_size is 1000000000"):
        spec_from_config(config_of(TINY) | sizes)
