"""`llx eval`, as a user runs it, on tasks of our own."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

pytest.importorskip("lm_eval", reason="pip install 'lm-eval")

from llx.artifact import remember_latest
from tests.bench.tasks.test_evaluate import TASKS, task_folder
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of much


@pytest.fixture
def exported(tiny, llx, tmp_path):
    """The tiny artifact under ./artifacts, as the one exported last, and tasks beside it."""
    folder = tmp_path / "artifacts" / "tiny-fp32"
    shutil.copytree(tiny.folder, folder)
    remember_latest(folder)
    task_folder(tmp_path / "own")
    return folder


OWN = ("--include-path", "own", "--tasks")


def test_it_prints_a_table_of_80_columns(llx, exported):
    ended = llx("eval", *OWN, ",".join(TASKS), "--limit", 3, "--num-fewshot", 2)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    for part in (
        "llx_choice v1.0",
        "acc_norm",
        " ± ",
        "word_perplexity",
        "exact_match (stripped)",
        "lm-eval",
    ):
        assert part in ended.stdout
    assert "Not all documents were scored" in ended.stdout
    assert "cut from the left: the" in ended.stdout


def test_json_says_what_the_numbers_are_of(llx, exported):
    options = ("--engine", "torch", "-b", 2, "--num-fewshot", 2, "-o", "json")
    ended = llx("eval", *OWN, "llx_choice,llx_text", *options)
    assert (ended.code, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert found["schema"] == "llx.eval/1"
    assert (found["engine"], found["precision"]) == ("torch", "fp32")
    assert found["settings"]["limit"] is None
    assert found["truncated"] > 0
    assert [task["version"] for task in found["tasks"]] == ["1.0", "2.0"]
    assert found["command"].startswith("llx eval --include-path own")
    assert found["artifact"]["sha256"]


def test_a_bootstrap_says_nothing_between_the_lines_of_json(llx, exported):
    ended = llx("eval", *OWN, "llx_last_word", "-o", "json")
    (task,) = json.loads(ended.stdout)["tasks"]
    assert task["metrics"][0]["metric"] == "perplexity"
    assert task["metrics"][0]["stderr"] > 0


def test_markdown_pastes_into_an_issue(llx, exported):
    ended = llx("eval", *OWN, "llx_choice", "--num-fewshot", 1, "-o", "md")
    assert ended.code == 0
    assert "| llx_choice v1.0 | acc |" in ended.stdout
    assert "| 5 | 1 |" in ended.stdout
    assert "Repeat with `llx eval" in ended.stdout


def test_a_chat_template_is_asked_for(llx, exported):
    def scores(*options):
        ended = llx("eval", *OWN, "llx_text,llx_last_word", *options, "-o", "json")
        found = json.loads(ended.stdout)
        return found["settings"], [task["metrics"][0]["value"] for task in found["tasks"]]

    plain, (text, word) = scores()
    chat, (text_in_chat, word_in_chat) = scores("--apply-chat-template")
    assert (plain["chat_template"], chat["chat_template"]) == (False, True)
    assert (plain["fewshot_as_multiturn"], chat["fewshot_as_multiturn"]) == (False, True)
    assert word != word_in_chat
    assert text == text_in_chat  # a whole text has no prompt


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--tasks"),
        (("--tasks", "x", "-o", "csv"), "csv"),
        (("--tasks", "x", "--engine", "tf"), "unknown engine"),
        (("--tasks", "x", "-b", 9), "8 rows"),
        (("--tasks", "x", "--include-path", "nowhere"), "is not a folder"),
        (("--tasks", "x", "--fewshot-as-multiturn"), "--apply-chat-template"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(llx, exported, arguments, words):
    assert_refused(llx("eval", *arguments), 2, words)


def test_code_beside_a_task_is_refused_in_one_line(llx, exported, tmp_path):
    (tmp_path / "own" / "evil.yaml").write_text("task: evil\nprocess_docs: !function evil.f\n")
    ended = llx("eval", *OWN, "llx_choice")
    assert_refused(ended, 2, "own/evil.yaml, line 2", "!function evil.f", "--allow-code")


def test_data_that_is_on_the_hub_alone_needs_a_network(llx, exported, tmp_path):
    task = (tmp_path / "own" / "llx_text.yaml").read_text()
    away = task.replace("dataset_path: json", "dataset_path: nobody/nothing").replace(
        "llx_", "far_"
    )
    (tmp_path / "own" / "far.yaml").write_text(away)
    assert_refused(llx("eval", *OWN, "far_text"), 3, "nobody/nothing", "HF_HOME")


def test_data_that_is_a_file_and_not_there_is_named(llx, exported, tmp_path):
    (tmp_path / "own" / "text.jsonl").unlink()
    assert_refused(llx("eval", *OWN, "llx_text"), 2, "own/text.jsonl", "data_files")


def test_a_task_that_cannot_be_made_says_why(llx, exported, tmp_path):
    task = (tmp_path / "own" / "llx_text.yaml").read_text()
    (tmp_path / "own" / "odd.yaml").write_text(
        task.replace("{{text}}", "{{ nix }}") + "task: odd\n"
    )
    assert_refused(llx("eval", *OWN, "odd"), 2, "task odd cannot be made", "nix")


def test_without_lm_eval_it_says_what_installs_it(llx, exported, monkeypatch):
    real = importlib.util.find_spec

    def find_spec(name, package=None):
        return None if name == "lm_eval" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert_refused(
        llx("eval", "--tasks", "wikitext"), 3, "lm_eval", "pip install 'lm-eval<0.5,>=0.4.13'"
    )


@pytest.mark.slow
def test_lm_evals_own_tasks_are_known_by_name(llx, exported):
    assert_refused(llx("eval", "--tasks", "hellaswagg"), 2, "did you mean hellaswag")
    assert_refused(llx("eval", "--tasks", "wikitext"), 3, "the data of task wikitext", "HF_HOME")
    assert_refused(llx("eval", "--tasks", "humaneval"), 2, "unsafe_code", "--allow-code")


def test_several_artifacts_and_engines_make_one_table(llx, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "other")
    options = (*OWN, "llx_choice", "--engine", "ort,torch", "--limit", 3)
    ended = llx("eval", "artifacts/tiny-fp32", "other", *options)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    ended = llx("eval", "artifacts/tiny-fp32", "other", *options, "-o", "json")
    found = json.loads(ended.stdout)
    assert [one["engine"] for one in found] == ["ort", "torch"] * 2
    assert found[0]["environment"]["device"]


def test_what_was_scored_is_read_by_compare_report_and_convert(llx, exported, tmp_path):
    """By every engine and precision: what an engine says of itself is in the file."""
    made = [export_tiny(tmp_path / name, name).folder for name in ("int8-wo", "int4", "int8")]
    words = (*OWN, "llx_choice", "--engine", "ort,torch", "--num-fewshot", 1, "-o", "json")
    ended = llx("eval", "artifacts/tiny-fp32", *made, *words)
    assert (ended.code, ended.stderr) == (0, "")
    (tmp_path / "eval.json").write_text(ended.stdout)
    table = llx("convert", "eval.json", "-o", "md").stdout
    (line,) = (line for line in table.splitlines() if line.startswith("| llx_choice v1.0 | acc |"))
    assert line.count(" ± ") == 8
    compared = llx("compare", "eval.json", "eval.json", "-o", "json")
    assert compared.code == 0, compared.stderr
    changes = json.loads(compared.stdout)["compared"]["changes"]
    scores = [one for one in changes if one["metric"] == "score, llx_choice acc"]
    assert [one["verdict"] for one in scores] == ["no change"] * 8
    assert llx("report", "eval.json", "-o", "site").code == 0
    assert "Scores of tasks" in (tmp_path / "site" / "index.html").read_text()


def test_what_was_scored_is_shown_where_the_next_engine_is_lacking(llx, exported):
    options = ("--engine", "torch,trt", "--limit", 3, "-o", "json")
    ended = llx("eval", *OWN, "llx_choice", *options)
    assert ended.code == 3
    assert json.loads(ended.stdout)["engine"] == "torch"
    assert len(ended.stderr.splitlines()) == 1


def test_an_engine_or_a_folder_that_is_none_is_found_before_anything_is_scored(llx, exported):
    for words in (("--engine", "torch,nothing"), ("nowhere",)):
        assert_refused(llx("eval", "artifacts/tiny-fp32", *words, *OWN, "llx_choice"), 2, "no")


def test_what_was_asked_and_answered_is_kept_on_demand(llx, exported, tmp_path):
    options = ("--engine", "torch", "--limit", 3, "--log-samples", "kept")
    assert llx("eval", *OWN, "llx_choice,llx_text", *options).code == 0
    folder = tmp_path / "kept" / "tiny-fp32-torch"
    assert sorted(path.name for path in folder.iterdir()) == [
        "samples_llx_choice.jsonl",
        "samples_llx_text.jsonl",
    ]
    lines = (folder / "samples_llx_choice.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert {"doc", "target", "resps", "acc"} <= set(json.loads(lines[0]))
