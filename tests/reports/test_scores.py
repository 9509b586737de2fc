"""Scores of `llx eval` beside what `llx bench` measured: in tables, comparisons and gates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llx.api.results import Results
from llx.errors import BadInput
from llx.evaluation import encode_evaluations
from llx.reports.compare.gates import Gate
from llx.reports.compare.pairs import compare_results
from llx.reports.console import show_results
from llx.reports.evaluations import show_evaluations
from llx.reports.formats import FORMATS
from llx.reports.html.page import page_html
from llx.reports.measures import measures
from llx.reports.scores import score_table
from llx.result import encode_results
from llx.scores import Metric, TaskScore
from tests.reports.made import RESULT
from tests.reports.test_evaluations import EVALUATION

PRECISIONS = {"fp32": 0.4301, "int8": 0.4295, "int8-wo": 0.4303, "int4": 0.4012}


def task(name="hellaswag", acc=0.43, stderr: float | None = 0.005, documents=10042, **changes):
    metrics = [
        Metric(metric="acc", filter="none", value=acc, stderr=stderr, higher_is_better=True),
        Metric(
            metric="word_perplexity",
            filter="none",
            value=20 / acc,
            stderr=None,
            higher_is_better=False,
        ),
        Metric(metric="seen", filter="strict", value=1.0, stderr=None, higher_is_better=None),
    ]
    given = {"group": False, "version": "1.0", "fewshot": 0, "of": documents} | changes
    return TaskScore(task=name, documents=documents, metrics=metrics, **given)


def evaluation(*tasks, precision="fp32", sha256="ab", **settings):
    record = replace(RESULT.artifact, name=f"smol-{precision}", sha256=sha256 * 32)
    return replace(
        EVALUATION,
        precision=precision,
        artifact=record,
        tasks=list(tasks) or [task()],
        settings=replace(EVALUATION.settings, **settings),
    )


def scored(*tasks, **changes):
    return evaluation(*tasks, **changes).as_result()


FOUR = [
    evaluation(task(acc=acc), precision=precision, sha256=f"{i}a")
    for i, (precision, acc) in enumerate(PRECISIONS.items())
]


def test_four_precisions_make_one_table_everywhere(capsys, tmp_path):
    show_evaluations(FOUR)
    printed = capsys.readouterr().out
    show_evaluations(FOUR, "md")
    markdown = capsys.readouterr().out
    (tmp_path / "eval.json").write_bytes(encode_evaluations(FOUR))
    results = Results.read(tmp_path / "eval.json")
    assert len(results) == 4
    page = page_html(results)
    assert page.count("Scores of tasks") == 1
    assert "1 task was scored." in page
    assert "by lm-evaluation-harness 0.4.13, all documents of each task, through the chat" in page
    for form in (printed, markdown, page, FORMATS["md"](results)):
        for acc in PRECISIONS.values():
            assert f"{acc:.4f}" in form
    (line,) = (line for line in markdown.splitlines() if "| acc |" in line)
    assert line.count("±") == 4
    headings, rows = score_table(results)
    assert headings[4:] == [f">ort {precision}" for precision in PRECISIONS]
    assert [row[:4] for row in rows] == [
        ["hellaswag v1.0", "acc", "10042", "0"],
        ["", "word_perplexity", "10042", "0"],
        ["", "seen (strict)", "10042", "0"],
    ]


def test_scores_join_what_was_measured_of_the_same_engine_and_artifact(tmp_path, capsys):
    one = evaluation(sha256="cd")
    bench = replace(RESULT, artifact=one.artifact)
    other = evaluation(precision="int4", sha256="ef")
    (tmp_path / "eval.json").write_bytes(encode_evaluations([one]))
    (tmp_path / "more.json").write_bytes(
        encode_evaluations([evaluation(task("arc_easy"), sha256="cd")])
    )
    (tmp_path / "other.json").write_bytes(encode_evaluations([other]))
    (tmp_path / "bench.json").write_bytes(encode_results([bench]))
    names = ("other.json", "eval.json", "bench.json", "more.json")
    found = Results.read(*(tmp_path / name for name in names))
    assert len(found) == 2
    whole = next(result for result in found if result.speed)
    assert [task.task for task in whole.scores.tasks] == ["hellaswag", "arc_easy"]
    (alone,) = (result for result in found if not result.speed)
    assert alone.only_scored
    show_results(found)
    printed = capsys.readouterr().out
    assert "hellaswag acc" in printed
    assert "10042 documents, 0 shots" in printed
    # By other settings they are other scores.
    (tmp_path / "limited.json").write_bytes(encode_evaluations([evaluation(sha256="cd", limit=5)]))
    assert len(Results.read(tmp_path / "eval.json", tmp_path / "limited.json")) == 2


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (0.43, 0.40, "regressed"),
        (0.43, 0.425, "no change"),  # less than 2 %
        (0.43, 0.418, "inconclusive"),  # more, and no more than chance
        (0.43, 0.46, "improved"),
    ],
)
def test_a_score_that_fell_beyond_chance_regresses(before, after, verdict):
    found = compare_results([scored(task(acc=before))], [scored(task(acc=after), sha256="cd")])
    changes = {one.metric: one for one in found.changes}
    assert changes["score, hellaswag acc"].verdict == verdict
    assert "score, hellaswag seen (strict)" not in changes
    assert not found.unjudged  # the model was judged


def test_of_a_perplexity_less_is_better():
    found = compare_results([scored(task(acc=0.43))], [scored(task(acc=0.40))])
    assert "score, hellaswag word_perplexity" in {one.metric for one in found.regressed}


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (scored(task(acc=0.1), limit=100), "another limit"),
        (scored(task(acc=0.1), chat_template=False), "another chat template"),
        (scored(task(acc=0.1, version="2.0")), "another version"),
        (scored(task(acc=0.1, documents=5)), "another documents"),
    ],
)
def test_scores_of_other_questions_are_not_compared(after, why):
    changes = {one.metric: one for one in compare_results([scored()], [after]).changes}
    assert changes["score, hellaswag acc"].verdict == "not comparable"
    assert why in changes["score, hellaswag acc"].why


def test_what_is_gone_is_inconclusive_and_a_gate_may_require_it_or_bound_it():
    after = scored(task("arc_easy"))
    changes = {one.metric: one for one in compare_results([scored()], [after]).changes}
    assert changes["score, hellaswag acc"].verdict == "inconclusive"
    gate = Gate(metric="score, hellaswag acc", threshold="2%", required=True)
    assert compare_results([scored()], [after], [gate]).regressed
    floor = Gate(metric="score, hellaswag acc", limit=0.44)
    assert compare_results([scored()], [scored()], [floor]).regressed
    ceiling = Gate(metric="score, * word_perplexity", limit=20)
    assert compare_results([scored()], [scored()], [ceiling]).regressed
    passes = Gate(metric="score, hellaswag acc", limit=0.42)
    assert not compare_results([scored()], [scored()], [passes]).regressed


def test_programs_follow_scores_with_their_interval():
    found = {one.of: one for one in measures(scored())}
    assert found["hellaswag acc"].value == 0.43
    assert found["hellaswag acc"].interval == pytest.approx((0.43 - 0.0098, 0.43 + 0.0098))
    assert found["hellaswag acc"].more_is_better
    assert not found["hellaswag word_perplexity"].more_is_better
    assert "hellaswag seen (strict)" not in found


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"schema": "llx.eval/1"}', "is no llx.eval/1"),
        (b'[{"schema": "llx.eval/1", "tasks": 3}]', "is no llx.eval/1"),
        (b'{"schema": "llx.eval/2"}', "written by a newer llx"),
        (b'{"schema": "llx.evaluation"}', "is not a list of llx.result/1"),
        (b"[]", "holds no results"),
        (b"", "holds no results"),
        (b"\xff\xfe", "is not a list of llx.result/1"),
        (b"[" * 5000, "is not a list of llx.result/1"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_in_one_line(tmp_path, content, part):
    (tmp_path / "eval.json").write_bytes(content)
    with pytest.raises(BadInput, match=part):
        Results.read(tmp_path / "eval.json")
