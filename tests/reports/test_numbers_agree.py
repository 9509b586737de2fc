"""Numbers that stand beside one another agree: a value and its interval, two values and a ratio."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.bench.against import compared
from llx.reports.compare.gates import GATES
from llx.reports.compare.pairs import in_turns
from llx.reports.compare.verdicts import Pair
from llx.reports.console import show_results
from llx.reports.emitters import junit
from llx.reports.formats import FORMATS
from llx.reports.html.page import page_html
from llx.reports.measures import measures
from llx.reports.notes import speed_words
from llx.statistics import interval, outliers
from tests.reports.made import RESULT, against

SPEEDS = st.lists(st.floats(1, 200), min_size=5, max_size=24) | st.builds(
    lambda usual, spikes: [100 + 0.3 * x for x in usual] + [40 - x for x in spikes],
    st.lists(st.floats(-1, 1), min_size=6, max_size=16),
    st.lists(st.floats(0, 20), min_size=0, max_size=2),
)


def row(samples, **changes):
    """A row of such speeds, as the harness makes it of them."""
    speeds = np.array(samples)
    found, apart = interval(speeds), outliers(speeds)
    return replace(
        RESULT.speed[0],
        samples=list(samples),
        mean=float(speeds.mean()),
        sd=float(speeds.std(ddof=1)) if len(samples) > 1 else 0.0,
        median=float(np.median(speeds)),
        ci95=(found.low, found.high),
        ci_method=found.method,
        outliers=apart.count,
        farthest_outlier=apart.farthest,
        **changes,
    )


def of(one):
    return replace(RESULT, speed=[one])


@given(samples=SPEEDS)
def test_what_is_shown_lies_in_the_interval_beside_it(samples):
    made = row(samples)
    low, high = made.ci95
    slack = 1e-9 * high
    assert low - slack <= made.speed <= high + slack
    assert made.of_median == (made.ci_method == "order statistics, median")
    shown = float(speed_words(made).split()[0].replace(",", ""))
    assert shown == pytest.approx(made.speed, abs=0.05 * made.sd + 1e-3 * made.speed)
    assert ("median" in speed_words(made)) == made.of_median
    (followed,) = (one for one in measures(of(made)) if one.name == "speed")
    assert followed.value == made.speed
    assert followed.interval == made.ci95


@given(before=SPEEDS, after=SPEEDS)
def test_a_ratio_of_two_runs_is_that_of_the_two_numbers_beside_it(before, after):
    (change,) = (
        one
        for one in Pair(of(row(before)), of(row(after)), GATES).changes()
        if one.metric == RESULT.speed[0].name
    )
    assert change.ratio == pytest.approx(change.after / change.before)
    assert change.ci95[0] <= change.ratio <= change.ci95[1]


@given(around=SPEEDS, noise=st.lists(st.floats(0.9, 1.1), min_size=48, max_size=48))
def test_a_ratio_in_turns_is_that_of_the_two_numbers_beside_it(around, noise):
    before = row(
        [speed * factor for speed, factor in zip(np.repeat(around, 2), noise, strict=False)]
    )
    after = row([1.1 * speed for speed in around])
    (test,) = compared([before], [after])
    assert test.ratio == pytest.approx(test.mean / test.baseline_mean)
    assert test.ci95[0] <= test.ratio <= test.ci95[1]
    versus = against("ort", "tiny-fp32", [test])
    results = [
        replace(of(before), turns="t"),
        replace(of(after), turns="t", against=versus),
    ]
    ((baseline,), (candidate,)) = in_turns(results)
    change = next(Pair(baseline, candidate, GATES).changes())
    assert (change.before, change.after) == (test.baseline_mean, test.mean)
    assert change.ratio == test.ratio


SPIKY = row([100.0, 101, 99, 100.5, 99.5, 100.2, 99.8, 100.1, 99.9, 100.3, 40])
INVALID = row([51.5, 52.5, 53.5], valid=False, invalid_reason="3 repetitions, fewer than 5")


def test_where_the_median_counts_it_is_what_every_form_shows(capsys):
    assert not SPIKY.ci95[0] <= SPIKY.mean <= SPIKY.ci95[1]
    show_results([of(SPIKY)])
    page = page_html([of(SPIKY)])
    for form in (capsys.readouterr().out, FORMATS["md"]([of(SPIKY)]), page):
        assert "100 median" in form
        assert "94.5" not in form  # the mean
    assert "100 tok/s" in junit([of(SPIKY)])


def test_what_is_invalid_shows_its_value_beside_the_flag(capsys):
    show_results([of(INVALID)])
    forms = [capsys.readouterr().out, junit([of(INVALID)])]
    forms += [FORMATS["md"]([of(INVALID)]), page_html([of(INVALID)])]
    for form in forms:
        assert "52.5" in form
        assert "INVALID" in form
    assert "| 52.5 ± 1.0 INVALID: 3 repetitions, fewer than 5 |" in FORMATS["md"]([of(INVALID)])
