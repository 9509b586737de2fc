"""Results over time: what is kept, once each, and what a file that is no history says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llx.errors import BadInput
from llx.reports.history import read_history, remember
from llx.reports.html.page import page_html
from llx.reports.html.plots import history_plots
from llx.reports.html.runs import Looks
from llx.result import encode_results
from tests.reports.made import ERROR, RESULT
from tests.reports.pairs import turned

LOOKS = Looks.of(["ort"], ["fp32"])


def at(created, **changes):
    return replace(RESULT, created=created, **changes)


def test_a_history_grows_in_the_order_of_time(tmp_path):
    path = tmp_path / "branches" / "history.jsonl"
    remember([at("2026-11-25T00:00:00+00:00")], path, "second")
    entries = remember([at("2026-11-24T00:00:00+00:00")], path, "first")
    assert [entry.label for entry in entries] == ["first", "second"]
    assert read_history(path) == entries
    assert len(path.read_text().splitlines()) == 2


def test_a_result_is_kept_once(tmp_path):
    path = tmp_path / "history.jsonl"
    remember([at("a"), at("a", engine="torch")], path)
    assert len(remember([at("a"), at("b")], path)) == 3


def test_of_two_in_turns_the_candidate_is_kept(tmp_path):
    baseline, candidate = turned(0.9, "slower")
    (entry,) = remember([baseline, candidate], tmp_path / "history.jsonl")
    speed = next(one for one in entry.measures if one.slug == "speed")
    assert speed.value == candidate.speed[0].mean


def test_what_may_be_published_is_kept_with_its_interval(tmp_path):
    (entry,) = remember([at("a")], tmp_path / "history.jsonl")
    speed = next(one for one in entry.measures if (one.of, one.slug) == ("tg128", "speed"))
    assert (speed.value, speed.interval, speed.more_is_better) == (20.5, (14.1, 26.9), True)
    quick = at("b", speed=[replace(RESULT.speed[0], quick=True)])
    entry = remember([quick], tmp_path / "other.jsonl")[0]
    assert "tg128" not in {one.of for one in entry.measures}


def test_a_hundred_runs_stay_small(tmp_path):
    path = tmp_path / "history.jsonl"
    remember([at(f"2026-11-24T00:{i:02}") for i in range(100)], path)
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("text", ["{", '{"schema": "llx.result/1"}\n', "[]\n", "\xff"])
def test_what_is_no_history_is_refused_and_left_as_it_is(tmp_path, text):
    path = tmp_path / "history.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="is no history"):
        remember([at("a")], path)
    assert path.read_bytes() == text.encode("latin-1")


def test_a_result_without_numbers_is_not_kept(tmp_path):
    none = at("a", speed=[], fidelity=None, memory=None, error=ERROR)
    assert remember([none], tmp_path / "history.jsonl") == []


def test_the_page_draws_a_course_of_two_points_or_more(tmp_path):
    path = tmp_path / "history.jsonl"
    first = remember([at("2026-11-24T00:00:00+00:00")], path, "abc")
    assert "Over time" not in page_html([RESULT], history=first)
    entries = remember([at("2026-11-25T00:00:00+00:00")], path, "def")
    page = page_html([RESULT], history=entries)
    assert "Over time" in page
    assert "tg128, speed" in page
    (plot,) = [one for one in history_plots(entries, LOOKS) if one.title == "tg128, speed"]
    assert [(row["label"], row["value"]) for row in plot.rows] == [("abc", 20.5), ("def", 20.5)]


def test_other_machines_and_artifacts_have_lines_of_their_own(tmp_path):
    path = tmp_path / "history.jsonl"
    elsewhere = replace(RESULT.environment, device="another", device_fingerprint="x")
    entries = remember([at("a"), at("b"), at("c", environment=elsewhere)], path)
    plots = history_plots(entries, LOOKS)
    assert len({row["series"] for row in plots[0].rows}) == 2


def test_hostile_texts_of_a_history_are_text(tmp_path):
    path = tmp_path / "history.jsonl"
    bad = "</script><script>alert(1)</script>"
    named = replace(RESULT.artifact, name=bad)
    entries = remember([at("a", artifact=named), at("b", artifact=named)], path, bad)
    assert "<script>alert" not in page_html([RESULT], history=entries)


def test_the_command_keeps_and_draws(llx, tmp_path):
    (tmp_path / "a.json").write_bytes(encode_results([at("2026-11-24T00:00:00+00:00")]))
    (tmp_path / "b.json").write_bytes(encode_results([at("2026-11-25T00:00:00+00:00")]))
    for name in ("a", "b", "b"):
        ended = llx("report", f"{name}.json", "-o", "site", "--history", "h.jsonl", "--label", name)
        assert ended.code == 0
    assert [entry.label for entry in read_history(tmp_path / "h.jsonl")] == ["a", "b"]
    assert "Over time" in (tmp_path / "site" / "index.html").read_text()
