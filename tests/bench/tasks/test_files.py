"""Task files that would run code are found before lm-eval opens them, by whichever way in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="pip install 'llx[eval]'")

import lm_eval.tasks
import lm_eval.utils

from llx.bench.tasks.files import findings_in, refuse_code
from llx.bench.tasks.load import _refuse_unsafe, contained, load_tasks
from llx.errors import BadInput
from llx.evaluation import EvalRequest

PLAIN = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}, cache_dir: CACHE}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "b"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
# What a Python file beside the YAML would do if it were imported.
PYTHON = "from pathlib import Path\n\nPath(__file__).with_name('ran').touch()\n\nf = str\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    (folder / "code.py").write_text(PYTHON)
    return folder


def write(folder, name, text):
    data, cache = folder.parent / "data.jsonl", folder.parent / "cache"
    path = folder / name
    path.write_text(text.replace("DATA", str(data)).replace("CACHE", str(cache)))
    return path


def load(folder, allow_code=False, task="own"):
    with contained(allow_code, own_files=True):
        return load_tasks(EvalRequest(tasks=(task,), include_path=folder, allow_code=allow_code))


def hidden_behind_a_link_to_a_file(folder):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "code.py").write_text(PYTHON)
    write(elsewhere, "it.txt", f"{PLAIN}process_docs: !function code.f\n")
    (folder / "own.yaml").symlink_to(elsewhere / "it.txt")


def hidden_in_a_linked_folder(folder):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, "own.yaml", f"{PLAIN}process_docs: !function code.f\n")
    (folder / "linked").symlink_to(elsewhere)


def hidden_in_an_included_file(folder):
    write(folder, "base", f"{PLAIN}process_docs: !function code.f\n")
    write(folder, "middle", "include: base\n")
    write(folder, "own.yaml", "include: middle\ntask: own\n")


def hidden_in_an_included_file_of_an_absolute_path(folder):
    base = write(folder.parent, "base", f"{PLAIN}process_docs: !function code.f\n")
    write(folder, "own.yaml", f"include: [{base}]\ntask: own\n")


def hidden_beside_what_a_link_leads_to(folder):
    """A relative include is looked for there, and not beside the link."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, "base", f"{PLAIN}process_docs: !function code.f\n")
    write(folder, "base", PLAIN)
    write(elsewhere, "it.txt", "include: base\ntask: own\n")
    (folder / "own.yaml").symlink_to(elsewhere / "it.txt")


def hidden_in_a_merged_anchor(folder):
    write(folder, "base", f"{PLAIN}process_docs: !function code.f\n")
    write(folder, "own.yaml", "metadata: &m {include: base}\n<<: *m\ntask: own\n")


def with_lines(*lines):
    def make(folder):
        write(folder, "own.yaml", PLAIN + "\n".join(lines) + "\n")

    return make


HOSTILE = {
    "function": (with_lines("process_docs: !function code.f"), "!function code.f"),
    "verbatim tag": (with_lines("process_docs: !<!function> code.f"), "!function code.f"),
    "in a list": (with_lines("filter_list: [{name: a, filter: !function code.f}]"), "!function"),
    "as a key": (with_lines("metadata: {!function code.f : 1}"), "!function"),
    "python object": (
        with_lines("metadata: !!python/object/apply:os.system ['true']"),
        "python/object/apply:os.system",
    ),
    "python name": (with_lines("metadata: !!python/name:os.system"), "python/name:os.system"),
    "class": (with_lines("class: !function code.f"), "class"),
    "unsafe code": (with_lines("unsafe_code: true"), "unsafe_code: true"),
    "scripts of data": (
        with_lines("fewshot_config: {dataset_kwargs: {trust_remote_code: True}}"),
        "trust_remote_code: true",
    ),
    "pickles": (with_lines("dataset_path: pandas"), "dataset_path: pandas"),
    "metrics of evaluate": (
        with_lines("metadata: {metric_list: [{metric: ./m, hf_evaluate: true}]}"),
        "hf_evaluate: true",
    ),
    "a link to a file": (hidden_behind_a_link_to_a_file, "!function"),
    "a linked folder": (hidden_in_a_linked_folder, "!function"),
    "an included file": (hidden_in_an_included_file, "!function"),
    "an absolute include": (hidden_in_an_included_file_of_an_absolute_path, "!function"),
    "an include beside a link's target": (hidden_beside_what_a_link_leads_to, "!function"),
    "another reader of data": (with_lines("dataset_path: webdataset"), "dataset_path: webdataset"),
    "a prompt of a file": (with_lines("use_prompt: 'x.yaml:a'"), "use_prompt: x.yaml:a"),
    "a prompt of a library": (with_lines("use_prompt: 'promptsource:a'"), "promptsource:a"),
    "a merged include": (hidden_in_a_merged_anchor, "!function"),
}


@pytest.mark.parametrize(("make", "what"), HOSTILE.values(), ids=HOSTILE)
def test_what_would_run_code_is_named_and_not_run(folder, make, what):
    make(folder)
    with pytest.raises(BadInput, match="--allow-code") as refused:
        load(folder)
    assert what in str(refused.value)
    assert str(folder.parent) in str(refused.value)
    assert ", line " in str(refused.value)
    assert not list(folder.parent.rglob("ran"))


def test_code_runs_where_it_is_allowed(folder):
    write(folder, "own.yaml", PLAIN.replace('"{{text}}"', "!function code.f"))
    assert load(folder, allow_code=True)["tasks"].keys() == {"own"}
    assert (folder / "ran").exists()


def test_a_plain_task_and_lm_evals_own_files_are_fine(folder):
    theirs = Path(lm_eval.tasks.__file__).parent
    own, hellaswag = theirs / "gsm8k" / "gsm8k.yaml", theirs / "hellaswag" / "hellaswag.yaml"
    write(folder, "own.yaml", PLAIN)
    write(folder, "mine.yaml", f"include: {own}\ntask: mine\nwhen: 2026-11-25\n")
    (folder / "theirs.yaml").symlink_to(hellaswag)
    (folder / "round").symlink_to(folder)
    assert list(findings_in(folder)) == []
    assert load(folder)["tasks"].keys() == {"own"}


def test_an_include_that_leads_back_to_itself_ends(folder):
    write(folder, "own.yaml", "include: own.yaml\ntask: own\n")
    assert list(findings_in(folder)) == []


def test_a_file_that_is_no_yaml_is_refused(folder):
    write(folder, "own.yaml", PLAIN)
    write(folder, "broken.yaml", "a: [1\n")
    with pytest.raises(BadInput, match=r"broken\.yaml is no YAML that can be read"):
        refuse_code(folder)


def test_a_folder_that_is_not_there_is_refused(folder):
    with pytest.raises(BadInput, match="is not a folder"):
        refuse_code(folder / "nowhere")


@pytest.mark.parametrize("where", ["doc_to_text", "doc_to_target"])
def test_a_template_cannot_reach_python(folder, where):
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    write(folder, "own.yaml", re.sub(f"{where}: .*", f'{where}: "{hostile}"', PLAIN))
    with pytest.raises(BadInput, match="is unsafe"):
        load(folder)


def test_a_metric_that_lm_eval_does_not_have_is_not_looked_for_elsewhere(folder, tmp_path):
    script = tmp_path / "metric" / "metric.py"
    script.parent.mkdir()
    script.write_text(PYTHON)
    write(folder, "own.yaml", PLAIN.replace("exact_match", str(script.parent)))
    with pytest.raises(BadInput, match="is a script that `evaluate` would run"):
        load(folder)
    assert not (script.parent / "ran").exists()


def test_containment_ends_with_the_run(monkeypatch):
    import lm_eval.api.task

    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    before = lm_eval.utils.env, lm_eval.api.task.get_metric
    for allow, seen in ((False, None), (True, "1")):
        with contained(allow):
            assert os.environ.get("HF_ALLOW_CODE_EVAL") == seen
            assert lm_eval.utils.env is not before[0]
        assert (lm_eval.utils.env, lm_eval.api.task.get_metric) == before
        assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"


@pytest.mark.parametrize("task", ["humaneval", "code", "tagged"])
def test_a_task_that_runs_what_the_model_writes_is_refused(task, folder):
    """By its own name, by a group's or by a tag's; and before its metric is fetched and run."""
    theirs = Path(lm_eval.tasks.__file__).parent / "humaneval"
    write(folder, "group.yaml", "group: code\ntask: [{group: inner, task: [humaneval]}]\n")
    write(folder, "tag.yaml", f"include: {theirs}/humaneval.yaml\ntask: humaneval_2\ntag: tagged\n")
    paths = [str(theirs), str(folder)]
    manager = lm_eval.tasks.TaskManager(include_path=paths, include_defaults=False)
    with pytest.raises(BadInput, match=r"task humaneval(_2)? has unsafe_code"):
        _refuse_unsafe(manager, [task])
