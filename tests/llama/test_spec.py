"""`LlamaSpec`, from every spelling of config.json; the weights."""

from __future__ import annotations

import math

import pytest

from llx.errors import BadInput
from llx.llama.config import spec_from_config
from llx.llama.spec import LlamaSpec, RopeSpec
from llx.llama.weights import weights_of
from tests.checkpoints import KIN_SPECS, SPECS, TINY, config_of


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_config_of_older_transformers_is_read(spec):
    assert spec_from_config(config_of(spec)) == spec


def test_config_of_newer_transformers_is_read():
    config = config_of(TINY)
    del config["rope_theta"]
    config["dtype"] = "bfloat16"
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    assert spec_from_config(config).rope == RopeSpec(theta=500000.0)


def test_sizes_that_older_configs_leave_out_follow_from_the_others():
    config = config_of(TINY)
    del config["num_key_value_heads"], config["head_dim"], config["tie_word_embeddings"]
    spec = spec_from_config(config)
    assert (spec.kv_heads, spec.head_dim, spec.tied) == (TINY.heads, TINY.dim // TINY.heads, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["YiForCausalLM"], "model_type": "Yi"}, "YiForCausalLM"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "Sequence"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "short_factor is missing"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "RoPE scaling 'su' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_slow": 40}}, "beta_slow"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.25},
            "partial_rotary_factor is 0.25",
        ),
        ({"rope_scaling": 4.0}, "rope_scaling is 4.0"),
        ({"rope_scaling": [2.0]}, r"rope_scaling is \[2.0\]"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized \(gptq\)"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_key_value_heads": 4}, "do not share"),
        ({"num_hidden_layers": 0}, "layers"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
    ],
)
def test_a_config_that_is_no_llama_is_refused(change, says):
    with pytest.raises(BadInput, match=says):
        spec_from_config(config_of(TINY) | change)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False},
        {"pretraining_tp": 2},
        {"partial_rotary_factor": 1.0, "quantization_config": {}, "rope_scaling": None},
        {"hidden_act": "swish", "rope_interleaved": False, "is_llama_config": True},
    ],
)
def test_what_changes_no_result_is_accepted(change):
    assert spec_from_config(config_of(TINY) | change) == TINY


def test_the_original_context_beside_the_block_goes_before_the_one_in_it():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
    change = {"rope_scaling": scaling, "original_max_position_embeddings": 24}
    assert spec_from_config(config_of(TINY) | change).rope.original_context == 24


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_parameters_are_what_the_weights_hold(spec):
    assert spec.parameters == sum(math.prod(weight.shape) for weight in weights_of(spec))


def test_an_impossible_spec_is_refused():
    with pytest.raises(ValueError, match="even"):
        LlamaSpec(layers=1, dim=6, heads=2, kv_heads=1, head_dim=3, ffn_dim=4, vocab=8, context=16)
