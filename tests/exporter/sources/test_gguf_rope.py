"""RoPE in a GGUF file: llama.cpp's keys, and its table of divisors, or a refusal by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.gguf_architectures import ARCHITECTURES
from llx.exporter.sources.gguf_keys import RopeKeys
from llx.exporter.sources.gguf_rope import DIVISORS, rope_of, rotated_of
from llx.llama.config import spec_from_config
from llx.llama.spec import RopeSpec
from llx.typed import typed
from tests.checkpoints import LINEAR, TINY, YARN, config_of, random_tensors, write_gguf


def rope_in(keys, divisors=None, head_dim=64, context=131072, architecture="llama"):
    found, one = typed(keys, RopeKeys, "", ""), ARCHITECTURES[architecture]
    rotated = rotated_of(found, one, head_dim)
    tables = {} if divisors is None else {DIVISORS: divisors}
    return rope_of(found, one, rotated, context, tables)


def divisors_of(head_dim, factor, **changes):
    """The table as llama.cpp's converter makes it: of what transformers does to each frequency."""
    block = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    sizes = {"head_dim": head_dim, "rope_theta": 5e5, "max_position_embeddings": 131072}
    config = LlamaConfig(**config_of(TINY) | sizes | {"rope_scaling": block | changes})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 5e5 ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return (plain / scaled).numpy()


@pytest.mark.parametrize(("head_dim", "factor"), [(128, 8.0), (64, 32.0), (128, 32.0)])
def test_the_table_of_llama_3_1_is_recognised(head_dim, factor):
    rope = rope_in({"freq_base": 5e5}, divisors_of(head_dim, factor), head_dim)
    assert rope == RopeSpec(theta=5e5, type="llama3", factor=factor, original_context=8192)


@pytest.mark.parametrize(
    "divisors",
    [
        divisors_of(64, 8.0, original_max_position_embeddings=4096),
        divisors_of(64, 8.0, high_freq_factor=8.0),
        divisors_of(128, 8.0),
        np.linspace(1, 8, 32, dtype=np.float32),
        np.full(32, np.nan, np.float32),
    ],
    ids=["original context", "high factor", "another head size", "a ramp", "no numbers"],
)
def test_another_table_is_refused(divisors):
    with pytest.raises(BadInput, match=r"rope_freqs\.weight is not the table"):
        rope_in({"freq_base": 5e5}, divisors)


YARN_KEYS = {"scaling.type": "yarn", "scaling.factor": 4.0}


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({}, RopeSpec()),
        ({"scaling.type": "none", "scaling.factor": 4.0}, RopeSpec()),
        ({"scaling.type": "linear"}, RopeSpec()),
        ({"scaling.factor": 4.0}, RopeSpec(type="linear", factor=4.0)),
        ({"scale_linear": 2.0}, RopeSpec(type="linear", factor=2.0)),
    ],
)
def test_a_factor_without_a_type_is_linear_as_in_llama_cpp(keys, rope):
    assert rope_in(keys) == rope


def test_yarn_without_an_original_context_takes_the_models():
    assert rope_in(YARN_KEYS, context=512).original_context == 512


@pytest.mark.parametrize(
    ("keys", "divisors", "says"),
    [
        ({"scaling.type": "longrope"}, None, "longrope"),
        ({"dimension_count": 32}, None, "32 of the 64"),
        (YARN_KEYS | {"scaling.attn_factor": 0.8}, None, r"scaling\.attn_factor is 0\.8"),
        (YARN_KEYS | {"scaling.yarn_attn_factor": 1.0}, None, r"yarn_attn_factor is 1"),
        (YARN_KEYS | {"scaling.yarn_ext_factor": 0.0}, None, "yarn_ext_factor is 0"),
        (YARN_KEYS | {"scaling.yarn_log_multiplier": 0.1}, None, "yarn_log_multiplier"),
        (YARN_KEYS, divisors_of(64, 8.0), "scaled twice, by yarn"),
        ({"scaling.factor": 4.0}, divisors_of(64, 8.0), "scaled twice, by linear"),
    ],
)
def test_what_cannot_be_mapped_is_refused_by_name(keys, divisors, says):
    with pytest.raises(BadInput, match=says):
        rope_in(keys, divisors)


LLAMA3 = replace(
    TINY,
    rope=RopeSpec(theta=5e5, type="llama3", factor=32.0, original_context=8192),
    head_dim=64,
)


@pytest.mark.parametrize("spec", [LINEAR, YARN, LLAMA3], ids=["linear", "yarn", "llama3"])
def test_a_file_says_the_same_as_its_config_json(tmp_path, spec):
    tensors = random_tensors(spec)
    source = open_source(write_gguf(tmp_path / "scaled.gguf", spec, tensors))
    assert source.spec == spec == spec_from_config(config_of(spec))
    assert set(source.tensors) == set(tensors)
    assert check_coverage(source) == {}
