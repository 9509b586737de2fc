"""RoPE tables: where lower precisions fail, and against every rule that transformers has."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llx.llama.config import spec_from_config
from llx.llama.rope import inverse_frequencies, rope_tables
from llx.llama.spec import RopeSpec
from tests.checkpoints import TINY, config_of


def test_tables_are_right_at_the_end_of_a_long_context():
    position, head_dim, theta = 131071, 128, 500000.0
    cos, sin = rope_tables(RopeSpec(theta=theta), head_dim, np.arange(position + 1))
    with mpmath.workdps(40):
        for i in (0, 1, 7, 63):
            angle = mpmath.mpf(position) * mpmath.mpf(theta) ** (-mpmath.mpf(2 * i) / head_dim)
            assert abs(cos[position, i] - float(mpmath.cos(angle))) < 1e-9
            assert abs(sin[position, i] - float(mpmath.sin(angle))) < 1e-9


def test_position_zero_does_not_rotate():
    cos, sin = rope_tables(RopeSpec(), 10, np.arange(3))
    np.testing.assert_array_equal(cos[0], np.ones(5))
    np.testing.assert_array_equal(sin[0], np.zeros(5))


YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 4096,
    "short_factor": [1.0, 1.05, 1.5, 2.0, 2.75],
    "long_factor": [1.1, 4.0, 9.0, 30.0, 60.0],
}
# Name: (head size, theta, context, the block of config.json). Where a figure is somebody's, whose.
SCALED = {
    "linear": (64, 1e4, 8192, {"type": "linear", "factor": 2.5}),
    "llama 3.1": (128, 5e5, 131072, LLAMA3),
    "llama 3.2": (64, 5e5, 131072, LLAMA3 | {"factor": 32.0}),
    "yarn llama 2 64k": (128, 1e4, 65536, YARN | {"type": "yarn", "finetuned": True}),
    "yarn untruncated": (128, 1e4, 65536, YARN | {"truncate": False}),
    "yarn betas": (80, 1e6, 65536, YARN | {"beta_fast": 64, "beta_slow": 0.5}),
    "yarn attention": (128, 1e4, 65536, YARN | {"attention_factor": 1.0}),
    "yarn mscale": (64, 1e4, 163840, YARN | {"factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.0}),
    "yarn half an mscale": (64, 1e4, 65536, YARN | {"mscale": 0.7}),
    "yarn without a factor": (64, 1e4, 65536, YARN | {"factor": None}),
    "yarn without an original context": (64, 1e4, 65536, {"rope_type": "yarn", "factor": 2.0}),
    "yarn of a narrow ramp": (10, 1e4, 96, YARN | {"original_max_position_embeddings": 8}),
    "dynamic": (128, 1e4, 4096, {"type": "dynamic", "factor": 4.0}),
    "longrope": (10, 1e4, 131072, LONGROPE),
    "longrope of a factor": (10, 1e4, 131072, LONGROPE | {"factor": 8.0}),
    "longrope of less than its context": (10, 1e4, 2048, LONGROPE),
    "longrope attention": (10, 1e4, 131072, LONGROPE | {"attention_factor": 1.5}),
}


def config_with(head_dim, theta, context, scaling):
    sizes = {"head_dim": head_dim, "rope_theta": theta, "max_position_embeddings": context}
    return config_of(TINY) | sizes | {"rope_scaling": dict(scaling)}


@pytest.mark.parametrize("case", SCALED.values(), ids=SCALED)
def test_frequencies_are_those_of_transformers(case):
    config = config_with(*case)
    rope = spec_from_config(config).rope
    theirs, attention = ROPE_INIT_FUNCTIONS[rope.type](LlamaConfig(**config), torch.device("cpu"))
    np.testing.assert_allclose(inverse_frequencies(rope, case[0]), theirs.numpy(), rtol=2e-6)
    assert rope.attention_factor == pytest.approx(attention, rel=1e-12)


@pytest.mark.parametrize("case", SCALED.values(), ids=SCALED)
def test_tables_are_those_of_transformers(case):
    """At positions where transformers' float32 angles are still good, up to the context's end."""
    config = config_with(*case)
    spec = spec_from_config(config)
    positions = np.unique(np.linspace(0, min(spec.context, 4096) - 1, 50).astype(np.int64))
    rotary = LlamaRotaryEmbedding(LlamaConfig(**config))
    theirs = rotary(torch.zeros(1), torch.from_numpy(positions)[None])
    for ours, table in zip(rope_tables(spec.rope, spec.head_dim, positions), theirs, strict=True):
        half = table[0, :, : spec.head_dim // 2].numpy()
        np.testing.assert_allclose(ours, half, atol=2e-3)
        np.testing.assert_allclose(ours[:20], half[:20], atol=1e-3)


def test_dynamic_scaling_is_plain_up_to_the_context_and_refused_past_it():
    config = config_with(128, 1e4, 4096, {"type": "dynamic", "factor": 4.0})
    spec = spec_from_config(config)
    plain = inverse_frequencies(RopeSpec(theta=1e4), 128)
    np.testing.assert_array_equal(inverse_frequencies(spec.rope, 128), plain)
    init = ROPE_INIT_FUNCTIONS["dynamic"]
    longer, _ = init(LlamaConfig(**config), torch.device("cpu"), seq_len=4097)
    assert abs(longer.numpy() / plain - 1).max() > 1e-4
    with pytest.raises(ValueError, match="original context"):
        replace(spec, context=4097)


def test_longrope_beyond_its_original_context_would_be_other_frequencies_and_is_cut():
    config = config_with(10, 1e4, 131072, LONGROPE)
    told = []
    spec = spec_from_config(config, told.append)
    assert spec.context == 4096
    assert told == [line for line in told if "cut from 131072 to 4096" in line] != []
    init = ROPE_INIT_FUNCTIONS["longrope"]
    longer, _ = init(LlamaConfig(**config), torch.device("cpu"), seq_len=4097)
    assert abs(longer.numpy() / inverse_frequencies(spec.rope, 10) - 1).max() > 0.09
    with pytest.raises(ValueError, match="original context"):
        replace(spec, context=4097)
