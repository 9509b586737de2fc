"""Results over time: what is kept, once each, and what a file that is no history says."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llx.errors import BadInput
from llx.reports import history
from llx.reports.compare.courses import courses_of
from llx.reports.history import read_history
from llx.reports.html.page import page_html
from llx.reports.html.plots import history_plots
from llx.reports.html.runs import Looks
from llx.result import encode_results
from tests.reports.made import ERROR, RESULT
from tests.reports.pairs import turned

LOOKS = Looks.of(["ort"], ["fp32"])


def remember(*arguments):
    return history.remember(*arguments).entries


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


def test_results_of_the_same_second_both_stay(tmp_path):
    path = tmp_path / "history.jsonl"
    faster = replace(RESULT.speed[0], mean=99.0)
    remember([at("a")], path, "one")
    assert len(remember([at("a", speed=[faster])], path, "two")) == 2
    assert len(remember([at("a"), at("a", speed=[faster])], path, "three")) == 2


def test_a_line_of_an_older_llx_is_the_same_result(tmp_path):
    path = tmp_path / "history.jsonl"
    remember([at("a")], path, "one")
    line = json.loads(path.read_text())
    del line["result"]
    path.write_text(json.dumps(line))  # without its end of line, too
    (entry,) = remember([at("a")], path, "two")
    assert entry.label == "one"
    assert [one.created for one in remember([at("b")], path)] == ["a", "b"]
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("keep", [40, 200, -1])
@pytest.mark.parametrize("zeros", [0, 500])
def test_a_line_that_was_cut_off_is_taken_out_and_said(tmp_path, keep, zeros):
    path = tmp_path / "history.jsonl"
    remember([at("a"), at("b")], path)
    first, second = path.read_bytes().splitlines(keepends=True)
    torn = first + second[: keep if keep > 0 else -20] + bytes(zeros)
    path.write_bytes(torn)
    assert [one.created for one in read_history(path)] == ["a"]
    said = []
    found = history.remember([at("c")], path, "", said.append)
    assert [one.created for one in found.entries] == ["a", "c"]
    assert len(said) == 1
    assert "taken out" in said[0]
    assert read_history(path) == found.entries


def test_a_history_of_bytes_that_never_arrived_begins_anew(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(bytes(4096))
    assert [one.created for one in remember([at("a")], path)] == ["a"]
    assert b"\0" not in path.read_bytes()


def test_a_disk_that_fills_up_leaves_the_lines_that_were_there(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    remember([at("a")], path)
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr("os.write", lambda handle, data: write(handle, data[:300]))
    with pytest.raises(OSError, match="No space"):
        remember([at("b"), at("c")], path)
    assert path.read_bytes() == before


def test_a_number_past_all_numbers_makes_no_line_that_cannot_be_read(tmp_path):
    path = tmp_path / "history.jsonl"
    huge = replace(RESULT.speed[0], mean=1e308, ci95=(-math.inf, math.inf))
    endless = replace(RESULT.speed[0], test="tg9", mean=math.inf)
    remember([at("a", speed=[huge, endless])], path)
    (entry,) = read_history(path)
    assert [one.value for one in entry.measures if one.of.startswith("tg")].count(1e308) == 1


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_regular_file_keeps_no_history(tmp_path, kind):
    path = tmp_path / "history.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    with pytest.raises(BadInput, match="history"):
        remember([at("a")], path)


ADDS = """
import sys
from dataclasses import replace
from pathlib import Path
from llx.reports.history import remember
from llx.result import read_results
path, source, name = map(Path, sys.argv[1:])
(found,) = read_results(source)
sys.stdin.read(1)  # all begin at the same moment
remember([replace(found, command=str(name))], path, str(name))
print("added", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 20])
def test_of_many_that_add_at_once_none_is_lost(tmp_path, killed):
    """Whoever was told that a line was added finds it, and nothing else is broken by a kill."""
    path, source, rng = tmp_path / "history.jsonl", tmp_path / "one.json", random.Random(1)
    source.write_bytes(encode_results([RESULT]))
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", ADDS, path, source, str(i)], stdin=pipe, stdout=pipe
        )
        for i in range(60)
    ]
    for writer in writers:
        writer.stdin.write(b"x")
    for writer in writers:
        writer.stdin.flush()
    for writer in rng.sample(writers, killed):
        time.sleep(rng.random() / 20)
        writer.kill()
    outs = [writer.communicate()[0] for writer in writers]
    told = {str(i) for i, out in enumerate(outs) if out == b"added\n"}
    assert len(told) >= 60 - killed
    assert {entry.label for entry in read_history(path)} >= told
    assert len(path.read_bytes().splitlines()) == len(read_history(path))


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
    (plot,) = [
        one for one in history_plots(courses_of(entries), LOOKS) if one.title == "tg128, speed"
    ]
    assert [(row["label"], row["value"]) for row in plot.rows] == [("abc", 20.5), ("def", 20.5)]


def test_what_two_engines_took_once_has_no_course(tmp_path):
    path = tmp_path / "history.jsonl"
    entries = remember([at("a"), at("b", engine="torch")], path, "one")
    assert history_plots(courses_of(entries), Looks.of(["ort", "torch"], ["fp32"])) == []


def test_other_machines_and_artifacts_have_lines_of_their_own(tmp_path):
    path = tmp_path / "history.jsonl"
    elsewhere = replace(RESULT.environment, device="another", device_fingerprint="x")
    entries = remember([at("a"), at("b"), at("c", environment=elsewhere)], path)
    plots = history_plots(courses_of(entries), LOOKS)
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
