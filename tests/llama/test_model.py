"""The model against transformers' own classes of LLaMA and its kin, in fp32."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llx.llama.model import Llama, empty_cache
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import LlamaSpec, RopeSpec
from tests.checkpoints import (
    KIN_SPECS,
    SPECS,
    TINY,
    config_of,
    random_llama,
    random_tensors,
    stored_tensors,
    torch_dice,
)

TOLERANCE = 1e-5
CAPACITY = 48
LENGTH = 36  # past the original context of every scaled RoPE, except dynamic's, which ends there


def hugging_face(spec: LlamaSpec) -> PreTrainedModel:
    found = config_of(spec)
    config = AutoConfig.for_model(**found, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).eval()
    assert type(model).__name__ == found["architectures"][0]
    tensors = stored_tensors(spec, random_tensors(spec))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if spec.tied else [])
    model.tie_weights()
    return model


def tokens_of(spec: LlamaSpec, rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, spec.vocab, (rows, length), generator=torch_dice(1))


@torch.inference_mode()
def in_steps(
    model: Llama, tokens: torch.Tensor, cuts: list[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """All logits of tokens [B, N], fed in steps that end at the given places, and the cache."""
    rows = len(tokens)
    cache = empty_cache(model.spec, rows, CAPACITY, torch.float32)
    logits, start = [], 0
    for end in cuts:
        positions = torch.arange(start, end).expand(rows, -1)
        every = torch.arange(end - start).expand(rows, -1)
        step, _ = model(tokens[:, start:end], positions, every, cache)
        logits.append(step)
        start = end
    return torch.cat(logits, 1), cache


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_prefill_in_chunks_then_decode_matches_transformers(spec):
    tokens = tokens_of(spec, rows=2, length=LENGTH)
    with torch.inference_mode():
        wanted = hugging_face(spec)(tokens, use_cache=True)
    logits, cache = in_steps(random_llama(spec), tokens, [7, 16, *range(17, LENGTH + 1)])
    assert (logits - wanted.logits).abs().max() <= TOLERANCE
    # Logits cannot tell an offset that queries and keys share: RoPE is relative. The cache can.
    for layer, part in enumerate(wanted.past_key_values.layers):
        for ours, theirs in zip(cache[2 * layer :], (part.keys, part.values), strict=False):
            kept = theirs.shape[2]  # transformers keeps no more than a window needs
            assert kept == LENGTH or kept == (spec.window or 0) - 1
            assert (ours[:, :, LENGTH - kept : LENGTH] - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["llama3-rope", "yarn-rope"])
def test_scaled_rope_is_tested_past_its_original_context(name):
    rope = SPECS[name].rope
    assert rope.original_context < LENGTH
    scaled = inverse_frequencies(rope, TINY.head_dim)
    divided_by = inverse_frequencies(RopeSpec(theta=rope.theta), TINY.head_dim) / scaled
    assert divided_by[0] == pytest.approx(1)
    assert 1 < divided_by[1] < rope.factor
    assert divided_by[2:] == pytest.approx(rope.factor)


def test_one_prefill_matches_transformers():
    tokens = tokens_of(TINY, rows=3, length=CAPACITY)
    with torch.inference_mode():
        wanted = hugging_face(TINY)(tokens).logits
    logits, _ = in_steps(random_llama(TINY), tokens, [CAPACITY])
    assert (logits - wanted).abs().max() <= TOLERANCE


@torch.inference_mode()
def test_right_padded_rows_match_each_row_alone():
    model, reference = random_llama(TINY), hugging_face(TINY)
    tokens, lengths = tokens_of(TINY, rows=2, length=20), torch.tensor([12, 5])
    cache = empty_cache(TINY, 2, CAPACITY, torch.float32)
    padded = tokens[:, :12]
    index = (lengths - 1).unsqueeze(1)
    logits, _ = model(padded, torch.arange(12).expand(2, -1), index, cache)
    # Then decode: each row goes on at its own position, over its pad.
    steps = [logits]
    for i in range(3):
        positions = (lengths + i).unsqueeze(1)
        fed = tokens.gather(1, positions)
        logits, _ = model(fed, positions, torch.zeros(2, 1, dtype=torch.int64), cache)
        steps.append(logits)
    got = torch.cat(steps, 1)
    for row, length in enumerate(lengths.tolist()):
        wanted = reference(tokens[row : row + 1, : length + 3]).logits[0, length - 1 :]
        assert (got[row] - wanted).abs().max() <= TOLERANCE


@torch.inference_mode()
def test_logit_index_picks_positions_in_any_order():
    model = random_llama(TINY)
    tokens = tokens_of(TINY, rows=2, length=6)
    positions = torch.arange(6).expand(2, -1)

    def logits_at(index: torch.Tensor) -> torch.Tensor:
        cache = empty_cache(TINY, 2, CAPACITY, torch.float32)
        return model(tokens, positions, index, cache)[0]

    every = logits_at(positions)
    picked = logits_at(torch.tensor([[5, 0], [2, 2]]))
    torch.testing.assert_close(picked[0], every[0, [5, 0]])
    torch.testing.assert_close(picked[1], every[1, [2, 2]])
