"""`llx compare` as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llx.result import FailedTest, encode_results
from tests.reports.made import CRASH
from tests.reports.pairs import judged, on, result, turned


@pytest.fixture
def files(tmp_path):
    """Writes results into a file of the working directory."""

    def write(name, *results):
        (tmp_path / name).write_bytes(encode_results(list(results)))
        return name

    return write


def test_two_runs_of_one_thing_exit_0(llx, files):
    ended = llx("compare", files("a.json", result(1)), files("b.json", result(2)))
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("no regression: ")
    assert max(map(len, ended.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("after", "named"),
    [(result(2, faster=0.4), "tg128"), (judged(kld=0.5), "KLD prefill")],
)
def test_a_regression_exits_1_and_is_named(llx, files, after, named):
    before = judged() if named == "KLD prefill" else result(1)
    ended = llx("compare", files("a.json", before), files("b.json", after))
    assert ended.code == 1
    assert f"REGRESSED: {named} on ort" in ended.stdout.splitlines()[0]


def test_on_another_device_wall_clocks_are_not_compared_and_fidelity_is(llx, files):
    a = files("a.json", on("A", judged()))
    slower = on("B", result(2, faster=0.5))
    ended = llx("compare", a, files("b.json", on("B", judged(kld=0.5))), "-o", "json")
    assert ended.code == 1
    changes = json.loads(ended.stdout)["compared"]["changes"]
    assert {c["verdict"] for c in changes if c["kind"] == "wall clock"} == {"not comparable"}
    assert llx("compare", files("c.json", on("A", result(1))), files("d.json", slower)).code == 0


def test_a_file_of_results_in_turns_is_compared_with_itself(llx, files):
    assert llx("compare", files("a.json", *turned(0.8, "slower"))).code == 1
    assert llx("compare", files("a.json", *turned(1.0, "no change"))).code == 0
    ended = llx("compare", files("a.json", result()))
    assert ended.code == 2
    assert "llx bench --against" in ended.stderr


def test_gates_of_a_file_decide(llx, files, tmp_path):
    gates = tmp_path / "gates.toml"
    gates.write_text('[[gate]]\nmetric = "KLD *"\nkind = "deterministic"\nthreshold = "90%"\n')
    pair = files("a.json", judged(kld=0.010)), files("b.json", judged(kld=0.015))
    assert llx("compare", *pair).code == 1
    assert llx("compare", *pair, "--gate", "gates.toml").code == 0
    assert llx("compare", *pair, "--gate", "none.toml").code == 2


def test_markdown_and_an_unknown_format(llx, files):
    pair = files("a.json", judged()), files("b.json", judged(kld=0.5))
    assert llx("compare", *pair, "-o", "md").stdout.startswith("**🔴 REGRESSED")
    ended = llx("compare", *pair, "-o", "pdf")
    assert ended.code == 2
    assert "choose one of md, json" in ended.stderr


def test_a_report_of_two_files_holds_the_first_against_the_second(llx, files, tmp_path):
    pair = files("now.json", result(2, faster=0.4)), files("before.json", result(1))
    ended = llx("report", *pair, "-o", "site")
    assert "The baseline:" in ended.stdout
    assert ended.code == 0  # the gate is `llx compare`
    assert "REGRESSED: tg128 on ort; " in ended.stdout
    page, text = ((tmp_path / "site" / name).read_text() for name in ("index.html", "report.md"))
    assert "Against the baseline" in page
    assert text.split("\n\n")[1].startswith("**🔴 REGRESSED: tg128 on ort")


def test_a_report_of_two_files_compares_nothing_where_none_is_a_baseline(llx, files, tmp_path):
    pair = files("now.json", result(2, faster=0.4)), files("before.json", result(1))
    ended = llx("report", *pair, "-o", "site", "--no-baseline")
    assert "REGRESSED" not in ended.stdout
    assert "Against the baseline" not in (tmp_path / "site" / "index.html").read_text()


def test_a_report_keeps_of_two_files_the_first_in_the_history(llx, files, tmp_path):
    pair = files("now.json", result(2)), files("before.json", result(1))
    llx("report", *pair, "-o", "site", "--history", "h.jsonl", "--label", "abc")
    (line,) = (tmp_path / "h.jsonl").read_text().splitlines()
    assert json.loads(line)["label"] == "abc"
    again = llx("report", *pair, "-o", "site", "--history", "h.jsonl", "--label", "abc")
    assert "history: h.jsonl, 1 line, 0 new" in again.stdout


def test_files_that_cannot_be_compared_say_so(llx, files):
    other = files("other.json", replace(result(3), engine="torch"))
    ended = llx("report", files("now.json", result(2)), other, "-o", "site")
    assert ended.code == 0
    assert "llx: nothing is compared: " in ended.stderr
    two = files("a.json", result(1)), files("b.json", result(3))
    assert "nothing is compared" in llx("report", "now.json", *two, "-o", "site").stderr


def test_a_broken_history_is_found_before_anything_is_written(llx, files, tmp_path):
    (tmp_path / "h.jsonl").write_text("none")
    ended = llx("report", files("now.json", result(2)), "-o", "site", "--history", "h.jsonl")
    assert ended.code == 2
    assert not (tmp_path / "site").exists()
    assert llx("report", "now.json", "-o", "site", "--label", "abc").code == 2


def test_a_key_that_gates_do_not_have_is_refused(llx, files, tmp_path):
    gate = '[[gate]]\nmetric = "KLD *"\nkind = "deterministic"\nthreshold = 1\n'
    pair = files("a.json", judged()), files("b.json", judged(kld=0.5))
    (tmp_path / "gates.toml").write_text(gate + "limit = 0.02\n")
    assert llx("compare", *pair, "--gate", "gates.toml").code == 1
    (tmp_path / "gates.toml").write_text(gate + "lmit = 0.02\n")
    ended = llx("compare", *pair, "--gate", "gates.toml")
    assert ended.code == 2
    assert "lmit" in ended.stderr
    speed = gate.replace("deterministic", "wall clock").replace("= 1", '= "5%"')
    (tmp_path / "gates.toml").write_text(speed + "limit = 100\n")
    assert llx("compare", *pair, "--gate", "gates.toml").code == 2


def test_results_in_turns_are_held_against_a_file_by_their_candidate(llx, files):
    baseline, candidate = turned(0.9, "slower")
    worse = replace(candidate, fidelity=judged(kld=0.5).fidelity)
    ended = llx("compare", files("a.json", judged()), files("b.json", baseline, worse))
    assert ended.code == 1
    assert "REGRESSED: KLD prefill on ort" in ended.stdout


def test_both_commands_take_a_baseline_by_its_name(llx, files):
    before, after = files("a.json", judged()), files("b.json", judged(kld=0.5))
    assert llx("compare", after, "--baseline", before).code == 1
    assert llx("compare", before, "--baseline", after).code == 0
    assert llx("compare", before, after).code == 1
    named = llx("report", after, "--baseline", before, "-o", "site")
    assert (named.code, named.stderr) == (0, "")
    assert "REGRESSED: KLD prefill on ort" in named.stdout
    unnamed = llx("report", after, before, "-o", "site")
    assert "REGRESSED: KLD prefill on ort" in unnamed.stdout
    assert "name what the first file is held against: --baseline FILE" in unnamed.stderr


def test_a_report_begins_with_what_was_measured_and_the_verdict(llx, files):
    before, after = files("a.json", judged()), files("b.json", judged(kld=0.5))
    first, second, *_ = llx("report", after, "--baseline", before, "-o", "site").stdout.splitlines()
    assert first == f"measured: tiny-fp32 on ort; {judged().environment.device}"
    assert second.startswith("REGRESSED: KLD prefill on ort")
    assert llx("report", after, "-o", "site").stdout.splitlines()[1] == "compared with nothing"


def test_a_report_says_too_what_was_not_judged(llx, files):
    other = replace(judged().artifact, sha256="12" * 32)
    after = files("b.json", replace(judged(), artifact=other, fidelity=None))
    ended = llx("report", after, "--baseline", files("a.json", judged()), "-o", "site")
    said = " ".join(ended.stdout.split())
    assert said.index("WARNING: ort with") < said.index("no regression:")


def test_what_is_not_clear_is_refused(llx, files):
    name = files("a.json", judged())
    ended = llx("compare", name, name, name)
    assert ended.code == 2
    assert "--baseline FILE" in ended.stderr
    ended = llx("report", name, "--baseline", name, "--no-baseline", "-o", "site")
    assert ended.code == 2


def test_what_a_format_has_no_place_for_is_said_beside_it(llx, files):
    failed = replace(result(1), failed=[FailedTest(test="tg512", error=CRASH)])
    name = files("a.json", failed)
    ended = llx("convert", name, "-o", "csv")
    assert ended.code == 0
    assert "left out: 1" in ended.stderr
    assert llx("convert", name, "-o", "junit").stderr == ""
    assert "github-smaller" in llx("convert", name, "-o", "github-bigger").stderr
    assert llx("convert", name, "-o", "yaml").code == 2
    assert json.loads(llx("convert", name, "-o", "json").stdout)[0]["engine"] == "ort"
