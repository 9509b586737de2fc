"""What is no LLaMA's kin is refused by what it is: by its name, or by what is in config.json."""

from __future__ import annotations

import re

import pytest
from transformers import CONFIG_MAPPING

from llx.errors import BadInput
from llx.llama.config import spec_from_config
from llx.llama.families import FAMILIES
from llx.llama.others import what_is
from tests.checkpoints import KIN_SPECS, TINY, config_of

OTHERS = {
    "mixtral": ("MixtralForCausalLM", "a mixture of experts"),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "a mixture of experts"),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "a mixture of experts"),
    "granitemoe": ("GraniteMoeForCausalLM", "a mixture of experts"),
    "phimoe": ("PhimoeForCausalLM", "a mixture of experts"),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "a mixture of experts"),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "a mixture of experts"),
    "gpt_oss": ("GptOssForCausalLM", "a mixture of experts"),
    "dbrx": ("DbrxForCausalLM", "a mixture of experts"),
    "minicpm3": ("MiniCPM3ForCausalLM", "latent attention"),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", "sees, hears or draws"),
    "llava": ("LlavaForConditionalGeneration", "sees, hears or draws"),
    "mistral3": ("Mistral3ForConditionalGeneration", "sees, hears or draws"),
    "gemma3": ("Gemma3ForConditionalGeneration", "sees, hears or draws"),
    "mamba": ("MambaForCausalLM", "state-space"),
    "jamba": ("JambaForCausalLM", "state-space"),
    "granitemoehybrid": ("GraniteMoeHybridForCausalLM", "state-space"),
    "lfm2": ("Lfm2ForCausalLM", "keep a state"),
    "qwen3_next": ("Qwen3NextForCausalLM", "keep a state"),
    "rwkv": ("RwkvForCausalLM", "keep a state"),
    "gemma": ("GemmaForCausalLM", "norms add 1 to their weights"),
    "gemma2": ("Gemma2ForCausalLM", "logits are capped"),
    "gemma3_text": ("Gemma3ForCausalLM", "norms stand behind"),
    "olmo2": ("Olmo2ForCausalLM", "norms stand behind"),
    "glm4": ("Glm4ForCausalLM", "norms stand behind"),
    "hyperclovax": ("HyperCLOVAXForCausalLM", "norms stand behind"),
    "glm": ("GlmForCausalLM", "neighbouring values"),
    "ernie4_5": ("Ernie4_5ForCausalLM", "neighbouring values"),
    "arcee": ("ArceeForCausalLM", "no gate"),
    "bitnet": ("BitNetForCausalLM", "norms within"),
    "diffllama": ("DiffLlamaForCausalLM", "differential attention"),
    "hunyuan_v1_dense": ("HunYuanDenseV1ForCausalLM", "after RoPE"),
    "gpt2": ("GPT2LMHeadModel", "LayerNorm"),
    "opt": ("OPTForCausalLM", "LayerNorm"),
    "falcon": ("FalconForCausalLM", "LayerNorm"),
    "phi": ("PhiForCausalLM", "LayerNorm"),
    "gpt_neox": ("GPTNeoXForCausalLM", "LayerNorm"),
    "starcoder2": ("Starcoder2ForCausalLM", "LayerNorm"),
    "cohere": ("CohereForCausalLM", "LayerNorm"),
    "ministral3": ("Ministral3ForCausalLM", "llama_4_scaling_beta"),
    "bert": ("BertForMaskedLM", "tokens see later ones"),
    "t5": ("T5ForConditionalGeneration", "it has an encoder"),
}


def refusal_of(config):
    with pytest.raises(BadInput) as refused:
        spec_from_config(config)
    assert "\n" not in str(refused.value)
    assert len(refused.value.message) < 200
    return refused.value.message


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("said", ["both", "class", "type"])
def test_another_model_is_refused_by_what_it_is_whichever_name_is_given(kind, said):
    model, what = OTHERS[kind]
    names = {"model_type": kind, "architectures": [model]}
    if said == "class":
        names["model_type"] = None
    if said == "type":
        names["architectures"] = None
    told = refusal_of(config_of(TINY) | names)
    assert what in told
    assert kind in told if said == "type" else model in told


@pytest.mark.parametrize("kind", OTHERS)
def test_a_type_that_is_refused_by_name_is_one_that_transformers_knows(kind):
    assert kind in CONFIG_MAPPING


@pytest.mark.parametrize("kind", FAMILIES)
def test_nothing_that_is_read_is_said_to_be_something_else(kind):
    assert what_is(kind, FAMILIES[kind].classes) is None


def test_what_is_said_to_be_a_mixture_of_experts_counts_them_in_transformers():
    """A name is no proof: the configuration of its installed class must have them, too."""
    said = [kind for kind in CONFIG_MAPPING if "mixture of" in (what_is(kind, []) or "")]
    assert len(said) > 20
    for kind in said:
        fields = " ".join(dir(CONFIG_MAPPING[kind]))
        assert re.search("expert|moe", fields), kind


@pytest.mark.parametrize("spec", KIN_SPECS.values(), ids=KIN_SPECS)
@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_experts_under_a_name_that_has_none_are_refused_by_their_key(spec, key):
    told = refusal_of(config_of(spec) | {key: 8})
    assert re.match(f"config.json's {key} is 8: the checkpoint is a mixture of experts", told)
    assert spec_from_config(config_of(spec) | {key: 0}) == spec
    assert spec_from_config(config_of(spec) | {key: 1}) == spec


@pytest.mark.parametrize("part", ["text_config", "llm_config", "vision_config"])
def test_a_model_of_several_parts_is_refused_by_its_parts(part):
    config = {"architectures": ["NewVLM"], "model_type": "new", part: {"model_type": "llama"}}
    assert "holds a language model among others" in refusal_of(config)


def test_a_model_that_nobody_knows_is_refused_by_its_class():
    config = config_of(TINY) | {"architectures": ["NewForCausalLM"], "model_type": "new"}
    assert refusal_of(config) == (
        "the checkpoint's architecture is NewForCausalLM, not LlamaForCausalLM"
    )
