"""Separate runs, judged by how far a branch's history has such runs apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llx
from llx.errors import BadInput
from llx.reports import history as history_module
from llx.reports.compare.changes import changes_json
from llx.reports.compare.courses import courses_of, followed_steps
from llx.reports.compare.gates import GATES, Gate
from llx.reports.compare.pairs import against_past, compare_results, judged_by
from llx.reports.compare.past import Past
from llx.reports.history import read_history, remember
from llx.reports.html.page import page_html
from llx.reports.html.plots import history_plots
from llx.reports.html.runs import Looks
from llx.reports.steps import step_rows
from llx.result import encode_results
from llx.scores import EvalSettings, Metric, Scores, TaskScore
from tests.reports.made import ERROR, HOSTILE, RESULT
from tests.reports.pairs import judged, on, result, turned

RUNS = 16


def run(i, speed=20.0, noise=0.01, **changes):
    """One separate run: its own repetitions lie close, but not to those of other runs."""
    dice = np.random.default_rng(i)
    mean = float(speed * np.exp(dice.normal(0, noise)))
    samples = [mean * (1 + 0.001 * k) for k in (-2, -1, 0, 1, 2)]
    row = replace(
        RESULT.speed[0],
        samples=samples,
        mean=mean,
        median=mean,
        sd=0.001 * mean,
        ci95=(0.998 * mean, 1.002 * mean),
    )
    day = f"2026-11-{1 + i % 28:02}T00:{i // 28:02}:00+00:00"
    return replace(RESULT, speed=[row], created=day, **changes)


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "main.jsonl"
    for i in range(RUNS):
        remember([run(i)], path, f"commit{i}", branch="main")
    return path


def past(history, *judged):
    return Past(read_history(history), judged)


def verdicts(found, metric="tg128"):
    (change,) = [one for one in found.changes if one.metric == metric]
    return change


@pytest.mark.parametrize(("speed", "verdict"), [(20.0, "no change"), (17.0, "regressed")])
def test_two_runs_apart_get_a_verdict_far_below_a_factor_of_two(history, speed, verdict):
    pair = [run(91)], [run(90, speed)]
    assert verdicts(compare_results(*pair)).verdict == "inconclusive"
    learned = verdicts(compare_results(*pair, past=past(history)))
    assert learned.verdict == verdict
    assert f"history of {RUNS} runs, noise ±" in learned.why
    low, high = learned.ci95
    assert low < learned.ratio < high
    assert high / low > 1.02  # as wide as runs lie apart, not as their repetitions


@pytest.mark.parametrize(("speed", "verdict"), [(20.0, "no change"), (18.0, "regressed")])
def test_a_run_is_held_against_the_latest_level(history, speed, verdict):
    now = run(90, speed)
    found = against_past([now], past(history, now))
    change = verdicts(found)
    assert change.verdict == verdict
    assert change.before == pytest.approx(20.0, rel=0.02)
    assert change.ratio == pytest.approx(change.after / change.before)
    assert [one.metric for one in found.regressed] == ["tg128"] * (verdict == "regressed")


def test_the_level_is_that_after_the_last_step(history):
    for i in range(RUNS, RUNS + 6):
        remember([run(i, 14.0)], history, f"commit{i}")
    now = run(90, 14.0)
    change = verdicts(against_past([now], past(history, now)))
    assert (change.verdict, change.before) == ("no change", pytest.approx(14.0, rel=0.02))


def test_what_a_gate_says_of_runs_apart_counts_before_the_history(history):
    gates = [Gate(metric="tg128", kind="wall clock", threshold="5%", apart="40%")]
    found = verdicts(compare_results([run(91)], [run(90, 17.0)], gates, past(history)))
    assert found.verdict == "inconclusive"
    assert "history" not in found.why


def test_a_noisy_history_decides_little(tmp_path):
    path = tmp_path / "main.jsonl"
    for i in range(RUNS):
        remember([run(i, noise=0.2)], path)
    assert verdicts(against_past([run(90, 15.0)], past(path))).verdict == "inconclusive"
    assert verdicts(against_past([run(90, 6.0)], past(path))).verdict == "regressed"


def test_few_runs_leave_the_factor_of_two(tmp_path):
    path = tmp_path / "main.jsonl"
    for i in range(4):
        remember([run(i)], path)
    change = verdicts(against_past([run(90, 14.0)], past(path)))
    assert (change.verdict, "factor of 2" in change.why) == ("inconclusive", True)
    assert verdicts(against_past([run(90, 8.0)], past(path))).verdict == "regressed"


def test_another_device_or_number_of_threads_has_no_past(history):
    threads = replace(RESULT.environment, threads=1)
    for now in (on("another", run(90)), run(90, environment=threads)):
        assert against_past([now], past(history)) is None
        assert past(history).spread(now, "tg128") is None


def test_what_was_remembered_already_is_not_judged_by_itself(history):
    for i in range(3):
        remember([run(90 + i, 10.0)], history)
    now = run(92, 10.0)
    assert past(history, now).spread(now, "tg128").runs == RUNS + 2


def test_a_worse_model_is_caught_by_its_perplexity(tmp_path):
    path = tmp_path / "main.jsonl"
    remember([judged()], path)
    phase = judged().fidelity.prefill
    worse = replace(phase, ppl=1.006 * phase.ppl)
    fidelity = replace(judged().fidelity, prefill=worse, decode=worse)
    artifact = replace(RESULT.artifact, sha256="ef" * 32)
    now = replace(judged(), fidelity=fidelity, artifact=artifact, created="b")
    found = against_past([now], past(path))
    assert {one.metric for one in found.regressed} == {"PPL prefill", "PPL decode"}
    assert not found.unjudged
    unjudged = replace(now, fidelity=None)
    assert "the history's" in against_past([unjudged], past(path)).unjudged[0]


def test_many_small_losses_are_one(tmp_path):
    path, worse = tmp_path / "main.jsonl", judged()
    for i in range(3):
        remember([worse], path, str(i))
        phase = replace(worse.fidelity.prefill, ppl=1.002 * worse.fidelity.prefill.ppl)
        fidelity = replace(worse.fidelity, prefill=phase)
        worse = replace(worse, fidelity=fidelity, created=f"2026-12-0{i + 1}")
    assert [one.metric for one in against_past([worse], past(path)).regressed] == ["PPL prefill"]
    remember([worse], path, "3")
    assert step_of(path, "ppl").at.label == "3"


@pytest.mark.parametrize(("same", "verdict"), [(0.97, "regressed"), (0.978, "no change")])
def test_shares_are_judged_as_gates_have_them(tmp_path, same, verdict):
    path = tmp_path / "main.jsonl"
    remember([judged(same=0.98)], path)
    found = against_past([judged(same=same)], past(path))
    change = verdicts(found, "same top-1 prefill")
    assert (change.verdict, change.before, change.after) == (verdict, 0.98, same)


def test_other_tokens_are_not_comparable(tmp_path):
    path = tmp_path / "main.jsonl"
    remember([judged()], path)
    found = against_past([judged(kld=0.5, corpus_sha256="00" * 32)], past(path))
    assert verdicts(found, "KLD prefill").verdict == "not comparable"
    assert not found.regressed
    # Once both texts are in the history, each is held against its own.
    remember([judged(kld=0.5, corpus_sha256="00" * 32)], path)
    assert verdicts(against_past([judged()], past(path)), "KLD prefill").verdict == "no change"


def scored(value, stderr=0.01, created="a"):
    metric = Metric(metric="acc", filter="none", value=value, stderr=stderr, higher_is_better=True)
    task = TaskScore(
        task="t", group=False, version="1", fewshot=0, documents=100, of=100, metrics=[metric]
    )
    settings = EvalSettings(
        limit=None, num_fewshot=None, batch=1, capacity=512, chat_template=False,
        fewshot_as_multiturn=False, allow_code=False, seed=0, fewshot_seed=0, bootstrap=100,
    )  # fmt: skip
    return replace(
        RESULT,
        speed=[],
        fidelity=None,
        created=created,
        scores=Scores(tasks=[task], settings=settings, lm_eval="0.4"),
    )


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.6, "no change"), (0.58, "inconclusive"), (0.4, "regressed")]
)
def test_a_score_falls_where_it_fell_beyond_chance(tmp_path, value, verdict):
    path = tmp_path / "main.jsonl"
    remember([scored(0.6)], path)
    assert verdicts(against_past([scored(value)], past(path)), "score, t acc").verdict == verdict


def test_what_is_gone_is_said_and_fails_where_it_is_required(history):
    now = replace(run(90), speed=[], fidelity=None)
    assert verdicts(against_past([now], past(history))).verdict == "inconclusive"
    gates = [Gate(metric="tg128", kind="wall clock", threshold="5%", required=True)]
    assert against_past([now], past(history), gates).regressed
    crashed = replace(now, error=replace(ERROR, exit_code=70))
    assert verdicts(against_past([crashed], past(history))).verdict == "regressed"


def test_a_gate_about_nothing_is_an_error_here_too(history):
    with pytest.raises(BadInput, match="no measure"):
        against_past([run(90)], past(history), [Gate(metric="tg999", threshold="5%")])


def test_what_was_measured_in_turns_is_judged_so(history):
    both = turned(0.9, "slower")
    change = verdicts(judged_by(both, (), GATES, past(history)))
    assert "in turns" in change.why


def test_invalid_rows_decide_nothing(history):
    now = run(90, 10.0)
    now = replace(now, speed=[replace(now.speed[0], valid=False, invalid_reason="why")])
    change = verdicts(against_past([now], past(history)))
    assert (change.verdict, "why" in change.why) == ("inconclusive", True)


def step_of(history, slug="speed"):
    steps = followed_steps(courses_of(read_history(history)))
    (step,) = [one for one in steps if one.course.measure.slug == slug]
    return step


def test_a_step_is_dated_to_its_commit(history):
    for i in range(RUNS, RUNS + 5):
        remember([run(i, 17.0)], history, f"commit{i}")
    step = step_of(history)
    assert (step.after.label, step.at.label) == (f"commit{RUNS - 1}", f"commit{RUNS}")
    low, high = step.ci95
    assert low < 0.85 < high < 0.9
    assert step.worse


def test_a_commit_measured_again_stands_at_its_place(history):
    """Whoever goes back to see since when adds to what was known of those commits."""
    for i in range(RUNS, RUNS + 5):
        remember([run(i, 17.0)], history, f"commit{i}")
    for i in (3, RUNS - 1, RUNS + 1):
        speed = 20.0 if i < RUNS else 17.0
        remember([run(60 + i, speed)], history, f"commit{i}")
    assert step_of(history).at.label == f"commit{RUNS}"


def test_runs_of_one_commit_make_no_step_between_them(tmp_path):
    path = tmp_path / "main.jsonl"
    for i in range(12):
        remember([run(i, 20.0 if i < 6 else 14.0)], path, "the only one")
    assert not followed_steps(courses_of(read_history(path)))


def test_what_does_not_vary_steps_where_a_gate_would_fail(tmp_path):
    path = tmp_path / "main.jsonl"
    for i, size in enumerate((1000, 1005, 1009, 1020, 1021)):
        remember([run(i, artifact=replace(RESULT.artifact, bytes=size))], path, str(i))
    step = step_of(path, "size")
    assert (step.at.label, step.old, step.new, step.worse) == ("3", 1005, 1020.5, True)


def test_a_history_of_several_branches_is_refused_and_nothing_is_lost(history):
    before = history.read_bytes()
    with pytest.raises(BadInput, match="main, other"):
        remember([run(90)], history, "x", branch="other")
    assert history.read_bytes() == before
    history.write_bytes(before + before.replace(b'"branch":"main"', b'"branch":"other"'))
    with pytest.raises(BadInput, match="main, other"):
        read_history(history)


def test_a_history_of_a_newer_llx_says_so(history):
    lines = history.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"llx.history/1", b"llx.history/2")
    history.write_bytes(b"".join(lines))
    with pytest.raises(BadInput, match="newer llx"):
        read_history(history)


def test_a_history_cut_in_its_first_half_is_one_line(history):
    data = history.read_bytes()
    history.write_bytes(data[300:])
    with pytest.raises(BadInput, match="no history"):
        remember([run(90)], history)
    assert history.read_bytes() == data[300:]


def test_the_command_judges_by_a_history(llx, history, tmp_path):
    (tmp_path / "now.json").write_bytes(encode_results([run(90, 16.0)]))
    ended = llx("compare", "now.json", "--history", "main.jsonl")
    assert ended.code == 1
    assert "REGRESSED: tg128" in ended.stdout
    ended = llx("compare", "now.json", "--history", "main.jsonl", "-o", "json")
    assert json.loads(ended.stdout)["regressed"] is True
    (tmp_path / "other.json").write_bytes(encode_results([on("another", run(91))]))
    ended = llx("compare", "other.json", "--history", "main.jsonl")
    assert ended.code == 2
    assert "nothing that these results go on with" in ended.stderr


def test_a_report_says_what_a_run_is_against_its_history_and_which_steps_there_were(
    llx, history, tmp_path
):
    for i in range(RUNS, RUNS + 5):
        (tmp_path / "now.json").write_bytes(encode_results([run(i, 17.0)]))
        ended = llx(
            "report", "now.json", "-o", "site", "--history", "main.jsonl", "--label", f"new{i}",
            "--branch", "main",
        )  # fmt: skip
        assert ended.code == 0
    assert "Steps in the history" in ended.stdout
    assert f"new{RUNS}" in ended.stdout
    markdown = (tmp_path / "site" / "report.md").read_text()
    assert "## Steps in the history" in markdown
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Against the history" in page
    assert f"new{RUNS}" in page
    (tmp_path / "now.json").write_bytes(encode_results([run(80, 17.0)]))
    ended = llx("report", "now.json", "-o", "site", "--history", "main.jsonl", "--branch", "other")
    assert ended.code == 2


def test_the_page_says_what_the_comparison_says(history):
    now = run(90, 16.0)
    entries = read_history(history)
    page = page_html([now], history=entries, past=entries)
    assert "REGRESSED: tg128" in page


def test_the_api_takes_a_history(history):
    found = llx.compare(run(90, 16.0), history=history)
    assert [one.metric for one in found.regressed] == ["tg128"]
    assert not llx.compare(result(), result(), history=history).regressed


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-300, 1e308, -1e308, 20.0]
)


@given(
    values=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(HOSTILE)), max_size=14),
    stays=st.booleans(),
)
def test_whatever_numbers_and_words_a_history_has_it_is_judged_and_drawn(values, stays):
    """A line is anybody's: no number in it ends a program, and no word is more than a word."""
    template = history_module._entry(run(0), "", "")
    entries = [
        replace(
            template,
            label=label if not stays else "one",
            created=f"{i}",
            measures=[replace(one, value=value, interval=(low, high)) for one in template.measures],
        )
        for i, (value, low, high, label) in enumerate(values)
    ]
    found = against_past([run(90)], Past(entries))
    assert (found is None) == (not values)
    table = changes_json(found) if found else ""
    assert "Infinity" not in table
    rows = step_rows(followed_steps(courses_of(entries)))
    assert len(rows) <= len(values) * len(template.measures)
    assert history_plots(courses_of(entries), Looks.of(["ort"], ["fp32"])) is not None


def test_hostile_labels_are_text_in_every_report(llx, history, tmp_path):
    for i in range(5):
        label = f"x\x1b[2J\u202e<script>|`{i}"
        remember([run(30 + i, 14.0)], history, label, branch="main")
    (tmp_path / "now.json").write_bytes(encode_results([run(90, 14.0)]))
    ended = llx("report", "now.json", "-o", "site", "--history", "main.jsonl")
    for text in (ended.stdout, (tmp_path / "site" / "report.md").read_text()):
        assert "script" in text
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
