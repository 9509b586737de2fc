"""An artifact's session from Python: positions, shapes, and the logits of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import llx
from llx.bench.sessions.torch import TorchSession
from llx.bench.speed.steps import prefill_logits

TOKENS = np.random.default_rng(5).integers(0, 300, (2, 40))


def wanted(artifact, tokens):
    """The logits of every position, [B, T, V], of PyTorch's fp32."""
    session = TorchSession.open(artifact, len(tokens))
    session.reset()
    parts = [part.copy() for part in prefill_logits(session, tokens.astype(np.int64))]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_steps_of_any_length_give_the_logits_of_the_whole(tiny, engine):
    whole = wanted(tiny, TOKENS)
    with tiny.session(engine, rows=2) as session:
        first = session.step(TOKENS[:, :17], every=True)
        second = session.step(TOKENS[:, 17:18])
        third = session.step(TOKENS[:, 18:])
        assert session.filled == 40
    assert (first.shape, first.dtype) == ((2, 17, whole.shape[2]), np.float32)
    np.testing.assert_allclose(first, whole[:, :17], atol=1e-3)
    np.testing.assert_allclose(second, whole[:, 17], atol=1e-3)
    np.testing.assert_allclose(third, whole[:, -1], atol=1e-3)


def test_what_a_step_returned_stays_when_the_next_is_taken(tiny):
    with tiny.session() as session:
        first = session.step([1, 2, 3])
        kept = first.copy()
        session.step([4])
        np.testing.assert_array_equal(first, kept)


def test_a_reset_forgets_what_was_fed(tiny):
    with tiny.session() as session:
        first = session.step([7, 8, 9])
        session.step([10, 11])
        session.reset()
        assert session.filled == 0
        np.testing.assert_allclose(session.step([7, 8, 9]), first, atol=1e-3)


def test_more_tokens_than_a_step_takes_are_several_steps(tiny):
    most = tiny.manifest.contract.limits.max_new_tokens
    capacity = tiny.manifest.contract.limits.capacity
    tokens = np.random.default_rng(1).integers(0, 300, (1, min(capacity, most + 9)))
    with tiny.session("torch") as session:
        found = session.step(tokens, every=True)
    np.testing.assert_allclose(found, wanted(tiny, tokens), atol=1e-3)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0.5], "no step"),
        ([], "no step"),
        ([[[1]]], "no step"),
        (["a"], "no step"),
        ([[1], [2]], "has 1 rows, and 2 were fed"),
        ([-1], "outside 0"),
        ([10**6], "outside 0"),
        ([1] * 5000, "do not fit"),
    ],
)
def test_what_is_no_step_is_refused_and_changes_nothing(tiny, tokens, message):
    with tiny.session() as session:
        session.step([1, 2])
        with pytest.raises(llx.BadInput, match=message):
            session.step(tokens)
        assert session.filled == 2


def test_an_unknown_engine_and_one_that_is_not_here_are_named(tiny):
    with pytest.raises(llx.BadInput, match="nothing-here"):
        tiny.session("nothing-here")
    for rows in (0, 10**6):
        with pytest.raises(llx.BadInput, match="rows"):
            tiny.session("ort", rows=rows)
