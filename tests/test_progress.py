"""How long work will take, told after its first part."""

from __future__ import annotations

import pytest

from llx.exporter.export import CALIBRATION
from llx.progress import foretold, in_minutes
from tests.conftest import export_tiny

BLOCKS, WINDOWS = 30, 4


def told_of(seconds_a_window, first=0, what="calibration"):
    """What is told of work that takes so long, begun at a block, and the windows done by then."""
    news, seen, clock = [], [], [0.0]
    report = foretold(
        lambda *given: seen.append(given),
        lambda line: news.append((line, seen[-1][1])),
        "calibration",
        BLOCKS,
        lambda: clock[0],
    )
    for done in range(first * WINDOWS, BLOCKS * WINDOWS + 1):
        report(what, done, BLOCKS * WINDOWS, "window")
        clock[0] += seconds_a_window
    assert len(seen) == BLOCKS * WINDOWS + 1 - first * WINDOWS
    return news


def test_it_is_told_once_after_the_first_block():
    line = "calibration: the first of 30 blocks took 40 s: the others will take about 19 min"
    assert told_of(10.0) == [(line, WINDOWS)]


def test_work_that_goes_on_is_told_of_by_what_is_left():
    line = "calibration: the first of 20 blocks took 40 s: the others will take about 13 min"
    assert told_of(10.0, first=10) == [(line, 11 * WINDOWS)]


@pytest.mark.parametrize("case", [{"seconds_a_window": 0.5}, {"seconds_a_window": 9, "what": "x"}])
def test_short_and_other_work_is_not_told_of(case):
    assert told_of(**case) == []


def test_a_quantization_reports_by_the_name_that_is_waited_for(tmp_path, monkeypatch):
    names = []

    def noted(progress, tell, what, parts):
        assert (what, parts) == (CALIBRATION, 2)
        return lambda name, done, total, unit: names.append((name, total % parts))

    monkeypatch.setattr("llx.exporter.export.foretold", noted)
    export_tiny(tmp_path, "int4")
    assert (CALIBRATION, 0) in names


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.2, "12 s"), (89, "89 s"), (95, "2 min"), (7800, "2 h 10 min")]
)
def test_times_are_said_as_people_do(seconds, words):
    assert in_minutes(seconds) == words
