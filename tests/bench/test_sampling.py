"""How a token is chosen, held against transformers, and where a text stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.bench.sampling import Sampling, StopTexts, choose, probabilities
from llx.errors import BadInput
from tests.checkpoints import dice

VOCAB = 60


def theirs(logits, sampling, seen):
    """The distribution that transformers draws from: its processors in its order."""
    torch = pytest.importorskip("torch")
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    ids = torch.tensor([seen], dtype=torch.int64)
    return torch.softmax(steps(ids, scores), -1)[0].numpy()


@pytest.mark.parametrize("top_k", [0, 1, 7, VOCAB, 2 * VOCAB])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35, 0.01])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_tokens_are_drawn_with_transformers_probabilities(top_k, top_p, penalty, temperature):
    sampling = Sampling(
        temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty
    )
    rng = dice(31)
    for _ in range(5):
        logits = (4 * rng.standard_normal(VOCAB)).astype(np.float32)
        seen = [int(token) for token in rng.integers(0, VOCAB, 25)]
        ours = probabilities(logits, sampling, seen)
        # Beside the rounding of a sum of probabilities, which no random nucleus ends at.
        np.testing.assert_allclose(ours, theirs(logits, sampling, seen), rtol=1e-9, atol=1e-15)


def test_tokens_level_with_the_last_of_top_k_are_left_as_in_transformers():
    logits = np.array([2, 1, 1, 1, 0], np.float32)
    sampling = Sampling(temperature=1.0, top_k=2)
    ours = probabilities(logits, sampling)
    assert list(ours > 0) == [True, True, True, True, False]
    np.testing.assert_allclose(ours, theirs(logits, sampling, [0]), rtol=1e-12)


def test_a_penalty_changes_the_likeliest_token_as_well():
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    rng = dice(1)
    assert choose(logits, Sampling(), rng, [0]) == 0
    assert choose(logits, Sampling(repetition_penalty=1.2), rng, [0]) == 1
    assert choose(logits, Sampling(repetition_penalty=1.2), rng, [1, 2, 2]) == 0


@pytest.mark.parametrize("penalty", [1e-300, 5e-324, 1e308])
@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1.0, 1e308])
def test_any_number_chooses_a_token(penalty, temperature):
    logits = np.array([30.0, -30.0, 0.0], np.float32)
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty, top_k=2, top_p=5e-324)
    assert choose(logits, sampling, dice(1), [0, 1, 2]) in (0, 1, 2)


@pytest.mark.parametrize(
    "bad",
    [{"top_k": -1}, {"repetition_penalty": 0.0}, {"repetition_penalty": float("nan")}],
)
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(BadInput, match=r"--(top-k|repetition-penalty)"):
        Sampling(**bad)


LETTERS = st.text("ab\n", max_size=12)


def cut_by_hand(text, stops):
    """The text up to the first place where one has ended, without the longest that ends there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(st.lists(LETTERS, max_size=6), st.lists(LETTERS.filter(bool), max_size=3))
def test_a_text_ends_before_the_first_that_stops_it_however_it_comes(pieces, stops):
    stopping, shown = StopTexts(stops), ""
    for piece in pieces:
        shown += stopping.step(piece)
        assert not any(stop in shown for stop in stops)
        if stopping.met:
            break
    shown += stopping.rest()
    assert (shown, stopping.met) == cut_by_hand("".join(pieces), stops)


def test_only_what_may_become_a_stop_is_held_back():
    stopping = StopTexts(["\n\nUser"])
    assert [stopping.step(piece) for piece in ("a", "\n", "b", "\n\nUs", "e", "!")] == [
        *("a", "", "\nb", "", "", "\n\nUse!"),
    ]


def test_an_empty_stop_is_refused():
    with pytest.raises(BadInput, match="--stop"):
        StopTexts(["a", ""])
