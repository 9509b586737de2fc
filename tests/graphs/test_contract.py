"""The contract's invariants, which no runtime checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.graphs.contract import ContractError, Limits, StepGuard, contract_for
from tests.checkpoints import DYNAMIC, TINY

LIMITS = Limits(capacity=16, max_new_tokens=6, max_rows=4, vocab=10)


def step(rows=1, new=1, start=0, token=1, index=0):
    tokens = np.full((rows, new), token, dtype=np.int64)
    positions = np.tile(np.arange(start, start + new, dtype=np.int64), (rows, 1))
    return tokens, positions, np.full((rows, 1), index, dtype=np.int64)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_steps_that_follow_each_other_are_admitted_up_to_the_capacity(lengths):
    guard, start = StepGuard(LIMITS, 1), 0
    for new in lengths:
        if start + new > LIMITS.capacity:
            with pytest.raises(ContractError, match="outside the cache"):
                guard.admit(*step(new=new, start=start))
            return
        guard.admit(*step(new=new, start=start))
        start += new


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (step(rows=2), "opened for 1 rows"),
        (step(new=7), "7 new tokens"),
        (step(start=1), "follow on"),
        (step(token=10), "vocabulary"),
        (step(token=-1), "vocabulary"),
        (step(new=3, index=3), "logit_index"),
        (step(index=-1), "logit_index"),
        ((step()[0], np.array([[-1]]), step()[2]), "outside the cache"),
        ((np.ones((1, 3), int), np.array([[0, 1, 3]]), step()[2]), "contiguous"),
        ((np.ones((1, 3), int), step(new=2)[1], step()[2]), "must be"),
        ((np.ones((1, 2), int), step(new=2)[1], np.zeros((1, 0), int)), "logit_index"),
    ],
)
def test_a_step_that_a_runtime_would_answer_wrongly_is_refused(bad, says):
    with pytest.raises(ContractError, match=says):
        StepGuard(LIMITS, 1).admit(*bad)


def test_a_row_may_go_back_over_its_pad_but_not_leave_a_gap():
    guard = StepGuard(LIMITS, 2)
    guard.admit(*step(rows=2, new=5))
    tokens, _, index = step(rows=2)
    guard.admit(tokens, np.array([[5], [2]]), index)
    with pytest.raises(ContractError, match="follow on"):
        guard.admit(tokens, np.array([[6], [4]]), index)


def test_reset_starts_at_zero_again():
    guard = StepGuard(LIMITS, 1)
    guard.admit(*step(new=4))
    guard.reset()
    with pytest.raises(ContractError, match="follow on"):
        guard.admit(*step(start=4))
    guard.admit(*step(new=4))


@pytest.mark.parametrize("context", [0, -5, 97])
def test_a_capacity_outside_the_models_context_is_refused(context):
    with pytest.raises(BadInput, match=f"--context {context} is outside"):
        contract_for(TINY, "fp32", context)


def test_a_capacity_past_what_dynamic_scaling_leaves_as_trained_says_why():
    assert contract_for(DYNAMIC, "fp32", DYNAMIC.context).limits.capacity == DYNAMIC.context
    with pytest.raises(BadInput, match=r"97 is beyond the 96 positions .* tables are fixed"):
        contract_for(DYNAMIC, "fp32", 97)


def test_the_default_capacity_is_the_models_context_up_to_2048():
    assert contract_for(TINY, "fp32").limits.capacity == TINY.context
