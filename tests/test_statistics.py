"""Intervals that hold what they say, over many seeds, and changes that are found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from llx.bench.speed.samples import Workload
from llx.statistics import (
    LOOKED_AT_LEVEL,
    THRESHOLD,
    Comparison,
    compare,
    drift,
    interval,
    noise_floor,
    outliers,
    verdict,
)
from tests.bench.synthetic import Clock, TimedSession, measured

SEEDS = 1000


def normal(rng, shape):
    return 1000 * (1 + 0.03 * rng.standard_normal(shape))


def lognormal(rng, shape):
    return 1000 * np.exp(0.1 * rng.standard_normal(shape))


def spiky(rng, shape):
    """One repetition in twenty takes three times as long."""
    slow = np.where(rng.random(shape) < 0.05, 3, 1)
    return 1000 * (1 + 0.02 * rng.standard_normal(shape)) / slow


def quiet(rng, shape):
    return 1000 * (1 + 0.015 * rng.standard_normal(shape))


def step_ns_of(speeds):
    """Nanoseconds of a step of four tokens; the first one warms up."""
    return itertools.chain([10**7], (round(4e9 / speed) for speed in speeds))


def test_the_harness_recovers_a_known_distribution(monkeypatch):
    rng, clock, held = np.random.default_rng(1), Clock(monkeypatch), 0
    for speeds in normal(rng, (SEEDS // 2, 5)):
        session = TimedSession(clock, step_ns_of(speeds))
        (row,) = measured(lambda _, s=session: s, Workload(prompts=(4,), generated=()))
        np.testing.assert_allclose(row.samples, speeds, rtol=1e-5)
        held += row.ci95[0] <= 1000 <= row.ci95[1]
    assert 0.92 <= held / (SEEDS // 2) <= 0.98


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("draw", [normal, lognormal, spiky])
def test_an_interval_holds_what_it_names(draw, n):
    rng = np.random.default_rng(n)
    drawn = draw(rng, 10**6)
    # Without spikes both are known; with them, only what a repetition usually does.
    truth = {"mean": drawn.mean(), "median": np.median(drawn)}
    if draw is spiky:
        truth["mean"] = truth["median"]
    held = [
        found.low <= truth[found.method.rpartition(" ")[2]] <= found.high
        for found in map(interval, draw(rng, (SEEDS, n)))
    ]
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_interval_of_few_quiet_samples_is_students():
    samples = np.array([9.0, 10.0, 11.0, 10.5, 9.5])
    half = stats.t.ppf(0.975, 4) * samples.std(ddof=1) / np.sqrt(5)
    found = interval(samples)
    assert (found.low, found.high) == (pytest.approx(10 - half), pytest.approx(10 + half))
    assert found.method == "Student's t, mean"
    assert found.half_width == pytest.approx(half / 10)
    assert interval(np.array([3.0])).low == interval(np.array([3.0])).high == 3.0


def test_two_independent_sets_are_compared_by_welch():
    rng = np.random.default_rng(3)
    a, b = normal(rng, 6), 1.1 * normal(rng, 9)
    found = compare(a, b, paired=False)
    same = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (
        pytest.approx(np.exp(same.low)),
        pytest.approx(np.exp(same.high)),
    )


def test_with_outliers_the_interval_is_that_of_the_median():
    samples = np.array([100.0, 101, 99, 100.5, 99.5, 100.2, 99.8, 40])
    found = interval(samples)
    assert found.method == "order statistics, median"
    assert (found.low, found.high) == (40, 101)  # of eight, all: 99.2 %
    assert interval(np.tile(samples, 2)).low == 99
    assert interval(samples[-5:]).method == "Student's t, mean"


@pytest.mark.parametrize("noise", [0.01, 0.015, 0.02])
def test_looking_until_it_is_narrow_costs_no_coverage(noise):
    looks = Workload(until=0.01).looks()
    assert looks == [5, 10, 20, 30]
    held = []
    for speeds in 1000 * (1 + noise * np.random.default_rng(7).standard_normal((SEEDS, 30))):
        for n in looks:
            found = interval(speeds[:n], LOOKED_AT_LEVEL)
            if found.half_width <= 0.01:
                break
        held.append(found.low <= 1000 <= found.high)
    assert np.mean(held) >= 0.94  # 95.2 to 97.1 % in 20,000 runs; without the level 92.4


def test_repetitions_go_on_until_the_interval_is_narrow(monkeypatch):
    clock, alternating = Clock(monkeypatch), np.resize([1.0, -1.0], 30)
    workload = Workload(prompts=(4,), generated=(), until=0.01, most_repetitions=30)
    counts = []
    for noise in (0.0005, 0.012, 0.2):
        speeds = 1000 * (1 + noise * alternating)
        session = TimedSession(clock, step_ns_of(speeds))
        (row,) = measured(lambda _, s=session: s, workload)
        counts.append(len(row.samples))
        assert row.ci_method.startswith("Student's t, mean, at 97 %")
        assert row.until == 0.01
    assert counts == [5, 20, 30]


def test_outliers_are_counted_and_kept(monkeypatch):
    speeds = np.array([100.0, 101, 99, 100.5, 99.5, 50, 140])
    assert outliers(speeds).count == 2
    assert outliers(speeds).farthest == pytest.approx(-0.5)
    assert outliers(speeds[:5]).count == 0
    assert outliers(np.array([100.0, 100, 100, 100, 103])).count == 0  # 3 % matter to nobody
    session = TimedSession(Clock(monkeypatch), step_ns_of(speeds))
    workload = Workload(prompts=(4,), generated=(), repetitions=7)
    (row,) = measured(lambda _: session, workload)
    assert row.outliers == 2
    assert row.farthest_outlier == pytest.approx(-0.5, abs=1e-5)
    assert row.mean == pytest.approx(speeds.mean(), rel=1e-5)


def test_sinking_clocks_and_a_session_that_warms_up_drift(monkeypatch):
    sinking = np.array([100.0, 98, 95, 92, 90])
    assert drift(sinking) == pytest.approx(-0.105, abs=0.005)
    assert drift(sinking[::-1]) == pytest.approx(0.105, abs=0.005)
    assert drift(np.array([100.0, 98, 99, 97, 98])) is None
    assert drift(100 + 0.1 * np.arange(10)) is None  # 0.9 % matter to nobody
    assert drift(np.full(10, 100.0)) is None
    session = TimedSession(Clock(monkeypatch), step_ns_of(sinking))
    (row,) = measured(lambda _: session, Workload(prompts=(4,), generated=()))
    assert row.drift == pytest.approx(-0.105, abs=0.005)


@pytest.mark.parametrize("n", [5, 10])
def test_drift_is_rarely_seen_where_there_is_none(n):
    rng = np.random.default_rng(n)
    assert np.mean([drift(s) is not None for s in normal(rng, (SEEDS // 3, n))]) <= 0.03
    falling = normal(rng, (SEEDS // 3, n)) * np.linspace(1, 0.7, n)
    assert np.mean([drift(s) is not None for s in falling]) >= 0.8


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("draw", [normal, lognormal])
def test_the_interval_of_a_ratio_holds_it(draw, n, paired):
    rng = np.random.default_rng(n)
    first, second = draw(rng, (SEEDS, n)), 0.9 * draw(rng, (SEEDS, n))
    found = [compare(a, b, paired=paired) for a, b in zip(first, second, strict=True)]
    assert 0.92 <= np.mean([c.low <= 0.9 <= c.high for c in found]) <= 0.98
    assert np.median([c.ratio for c in found]) == pytest.approx(0.9, rel=0.01)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("draw", "n"), [(quiet, 5), (normal, 10), (spiky, 20)])
def test_two_runs_of_one_thing_show_no_change_and_a_planted_slowdown_is_found(draw, n, paired):
    rng = np.random.default_rng(n)
    same, slow = [], []
    for a, b in zip(draw(rng, (SEEDS, n)), draw(rng, (SEEDS, n)), strict=True):
        same.append(verdict(compare(a, b, paired=paired), noise=0.02))
        slow.append(verdict(compare(a, 0.9 * b, paired=paired), noise=0.02))
    assert np.mean([v == "no change" for v in same]) >= 0.95
    assert np.mean([v == "slower" for v in slow]) >= 0.95
    assert "faster" not in slow


def test_pairs_measured_in_turns_are_compared_through_a_drift():
    rng = np.random.default_rng(0)
    sinking = np.linspace(1, 0.6, 10)
    first, second = normal(rng, 10) * sinking, 0.9 * normal(rng, 10) * sinking
    assert verdict(compare(first, second, paired=True), noise=0.01) == "slower"
    assert verdict(compare(first, second, paired=False), noise=0.01) == "inconclusive"


@pytest.mark.parametrize(
    ("ratio", "low", "high", "noise", "says"),
    [
        (0.90, 0.88, 0.92, 0.02, "slower"),
        (1.11, 1.08, 1.13, 0.02, "faster"),
        (0.97, 0.96, 0.98, 0.02, "no change"),  # excludes none, and is too small to matter
        (1.00, 0.98, 1.02, 0.02, "no change"),
        (0.90, 0.75, 1.08, 0.02, "inconclusive"),  # large, and may be none
        (1.00, 0.85, 1.18, 0.02, "inconclusive"),  # none, and may be large
        (0.90, 0.88, 0.94, 0.08, "inconclusive"),  # the machine does as much by itself
        (0.50, 0.45, 0.56, 0.30, "slower"),  # and never so much
        (38.0, 20.0, 72.0, 0.30, "faster"),
        (1.60, 0.70, 3.60, 0.30, "inconclusive"),
        (1.00, 0.98, 1.02, 0.08, "inconclusive"),
    ],
)
def test_a_verdict_needs_size_certainty_and_a_quiet_machine(ratio, low, high, noise, says):
    found = Comparison(ratio=ratio, low=low, high=high, method="given")
    assert verdict(found, noise, THRESHOLD) == says


def test_the_noise_floor_is_the_largest_change_that_equal_runs_allow():
    same = Comparison(ratio=1.0, low=1 / 1.04, high=1.02, method="given")
    assert noise_floor(same) == pytest.approx(0.04)


def test_equal_speeds_have_no_width():
    same = np.full(5, 100.0)
    for paired in (True, False):
        found = compare(same, same, paired=paired)
        assert (found.low, found.ratio, found.high) == (1, 1, 1)
        assert verdict(found, noise=0.0) == "no change"
