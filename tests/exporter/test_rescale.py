"""The fold that gives all int8 linear layers one input scale: it changes no result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llx.exporter.calibrate import input_maxima
from llx.exporter.load import llama_from_source
from llx.exporter.rescale import FACTOR_LEAST, INPUT_MOST, with_one_input_scale
from llx.llama.model import empty_cache
from tests.checkpoints import SPECS, TINY, MemorySource, random_tensors

TOKENS = np.random.default_rng(0).integers(0, TINY.vocab, (2, 20), dtype=np.int64)


def logits(source):
    model = llama_from_source(source)
    tokens = torch.from_numpy(TOKENS)
    positions = torch.arange(20).repeat(2, 1)
    cache = empty_cache(source.spec, 2, 24, torch.float32)
    with torch.inference_mode():
        return model(tokens, positions, positions, cache)[0]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_model_is_the_same_and_every_linear_input_reaches_the_same(spec):
    source = MemorySource(spec)
    rescaled, maxima = with_one_input_scale(source, input_maxima(source, TOKENS))
    torch.testing.assert_close(logits(rescaled), logits(source), atol=2e-5, rtol=1e-5)
    found = input_maxima(rescaled, TOKENS)
    assert found.keys() == maxima.keys()
    assert list(maxima.values()) == pytest.approx([INPUT_MOST] * len(maxima))
    assert list(found.values()) == pytest.approx([INPUT_MOST] * len(found), rel=1e-4)


def test_an_input_of_zeros_is_left_as_it_is_and_an_outlier_keeps_a_part_of_its_scale():
    tensors = random_tensors(TINY)
    tensors["model.layers.0.self_attn.v_proj.weight"].zero_()
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e4
    source = MemorySource(TINY, tensors)
    before = input_maxima(source, TOKENS)
    rescaled, maxima = with_one_input_scale(source, before)
    assert before["layers.0.o"] == maxima["layers.0.o"] == 0
    assert maxima["layers.1.down"] == before["layers.1.down"] * FACTOR_LEAST > INPUT_MOST
    torch.testing.assert_close(logits(rescaled), logits(source), atol=2e-5, rtol=1e-4)
