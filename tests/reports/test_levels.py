"""Steps in a history and the noise of its runs: rates by simulation, what holds of any numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.reports.levels import FEWEST, SHORTEST, Spread, level_starts, split

HISTORIES = 200


def course(dice, runs, noise, losses=()):
    """Logarithms of speeds, from which a share is lost at each of these runs."""
    values = dice.normal(3.0, noise, runs)
    for at, loss in losses:
        values[at:] += math.log(1 - loss)
    return values


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=60)
    | st.lists(st.sampled_from([1.0, 1.0, 2.0]), min_size=1, max_size=60)
)
def test_levels_follow_one_another_and_none_is_short(values):
    starts = level_starts(np.array(values))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    if len(starts) > 1:
        assert min(b - a for a, b in pairwise([*starts, len(values)])) >= SHORTEST
    assert np.concatenate(split(np.array(values), starts)).tolist() == values


@given(
    st.lists(st.floats(-0.1, 0.1), min_size=6, max_size=40, unique=True),
    st.floats(-5, 5),
    st.sampled_from([0.25, 0.5, 2.0, 4.0]),
)
def test_levels_are_the_same_in_other_units(values, shift, scale):
    """By powers of two, so that no rounding decides."""
    logs = np.round(np.array(values) * 2**20) / 2**20
    assert level_starts(logs * scale) == level_starts(logs)
    assert level_starts(-logs) == level_starts(logs)


@pytest.mark.parametrize("runs", [12, 30, 80])
def test_where_nothing_changed_there_is_hardly_ever_a_step(runs):
    dice = np.random.default_rng(7)
    found = sum(len(level_starts(course(dice, runs, 0.02))) > 1 for _ in range(HISTORIES))
    assert found <= 0.02 * HISTORIES


def test_a_spike_is_no_step():
    dice = np.random.default_rng(8)
    for _ in range(HISTORIES):
        values = course(dice, 30, 0.01)
        values[dice.integers(30)] -= 1.0
        assert level_starts(values) == [0]


def test_a_loss_is_found_at_its_run():
    dice, exact = np.random.default_rng(9), 0
    for _ in range(HISTORIES):
        starts = level_starts(course(dice, 40, 0.01, [(20, 0.06)]))
        assert any(abs(start - 20) <= 1 for start in starts)
        exact += starts == [0, 20]
    assert exact >= 0.9 * HISTORIES


def test_two_steps_are_two():
    values = course(np.random.default_rng(3), 60, 0.01, [(20, 0.1), (40, -0.2)])
    assert level_starts(values) == [0, 20, 40]


def test_equal_runs_have_one_level_and_an_exact_step_is_found():
    assert level_starts(np.ones(10)) == [0]
    assert level_starts(np.repeat([1.0, 2.0], 5)) == [0, 5]


def test_the_noise_is_that_within_levels():
    dice = np.random.default_rng(5)
    values = course(dice, 400, 0.03, [(200, 0.5)])
    spread = Spread.of(split(values, [0, 200]))
    assert spread.deviation == pytest.approx(0.03, rel=0.1)
    assert Spread.of([values]).deviation > 0.3


def test_too_few_runs_tell_no_noise():
    values = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 1.0, 1.02])
    assert Spread.of([values[:FEWEST]]) is None
    assert Spread.of([values[: FEWEST + 1]]) is not None
    assert Spread.of([values[:3], values[3:]]) is not None
    assert Spread.of([values[:3], values[3:6]]) is None


def rates(noise, loss, before=20, spikes=0.0):
    """How often the next run after a loss is each verdict."""
    dice, said = np.random.default_rng(11), []
    for _ in range(HISTORIES):
        values = course(dice, before + 1, noise)
        values -= (dice.random(before + 1) < spikes) * 0.4
        past, run = values[:before], values[before] + math.log(1 - loss)
        levels = split(past, level_starts(past))
        spread, last = Spread.of(levels), levels[-1]
        said.append(spread.judge(math.exp(run - np.median(last)), len(last), 0.05)[0])
    return {verdict: said.count(verdict) / HISTORIES for verdict in {*said}}


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1])
def test_the_next_run_of_the_same_is_hardly_ever_another(noise):
    found = rates(noise, 0)
    assert found.get("slower", 0) + found.get("faster", 0) <= 0.02


def test_spikes_that_were_seen_are_no_change():
    found = rates(0.01, 0, before=40, spikes=0.05)
    assert found.get("slower", 0) + found.get("faster", 0) <= 0.03


def test_what_is_lost_is_found_by_one_run_far_below_a_factor_of_two():
    assert rates(0.01, 0.1)["slower"] >= 0.98
    assert rates(0.03, 0.2)["slower"] >= 0.98
    assert rates(0.01, 0).get("no change", 0) >= 0.95


def test_the_interval_of_a_run_against_a_level_holds_the_truth():
    dice, held = np.random.default_rng(2), 0
    for _ in range(1000):
        values = course(dice, 16, 0.05)
        spread = Spread.of([values[:15]])
        ratio = math.exp(values[15] - np.median(values[:15]))
        _, found = spread.judge(ratio, 15, 0.05)
        held += found.low <= 1 <= found.high
    assert 0.93 <= held / 1000 <= 0.975
