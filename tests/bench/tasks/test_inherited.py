"""What a task file takes over from lm-eval's own is judged as lm-eval resolves it."""

from __future__ import annotations

import os
import random
import re
import sys

import pytest

pytest.importorskip("lm_eval", reason="pip install 'llx[eval]'")

from llx.bench.tasks.files import package, refuse_code
from llx.bench.tasks.functions import runs_code
from llx.bench.tasks.load import contained, load_tasks
from llx.bench.tasks.resolve import Reader
from llx.errors import BadInput
from llx.evaluation import EvalRequest
from tests.bench.tasks.test_files import PLAIN
from tests.checkpoints import SEED

TASKS = package()
SAYS = re.compile(r"^unsafe_code: *true", re.MULTILINE)
UNSAFE = sorted(
    path
    for path in TASKS.rglob("*")
    if path.is_file() and path.suffix != ".py" and SAYS.search(path.read_text(errors="replace"))
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    return tmp_path / "tasks"


def plain(folder):
    places = {"DATA": folder.parent / "data.jsonl", "CACHE": folder.parent / "cache"}
    return re.sub("DATA|CACHE", lambda found: str(places[found[0]]), PLAIN)


def load(folder, task="own"):
    with contained(False, own_files=True):
        return load_tasks(EvalRequest(tasks=(task,), include_path=folder))


def absolute(folder, theirs):
    return f"include: {theirs}"


def relative(folder, theirs):
    return f"include: {os.path.relpath(theirs, folder)}"


def in_a_list(folder, theirs):
    (folder / "harmless").write_text("num_fewshot: 0")
    return f"include: [harmless, {theirs}, harmless]"


def by_a_link(folder, theirs):
    (folder / "link").symlink_to(theirs)
    return "include: link"


def by_a_linked_folder(folder, theirs):
    (folder / "linked").symlink_to(theirs.parent)
    return f"include: linked/../{theirs.parent.name}/{theirs.name}"


def in_a_chain(folder, theirs):
    (folder / "first").write_text("include: second\nunsafe_code: false\n")
    (folder / "second").write_text(f"include: [{theirs}]\nunsafe_code: false\n")
    return "include: ./first"


def in_a_flow(folder, theirs):
    return f"? include\n: !!str {theirs}"


def in_a_merge(folder, theirs):
    return f'<<: [{{"include": "{theirs}"}}]'


def as_a_group(folder, theirs):
    return f"group: some\ninclude: {theirs}"


SPELLINGS = (
    *(absolute, relative, in_a_list, by_a_link, by_a_linked_folder, in_a_chain, in_a_flow),
    *(in_a_merge, as_a_group),
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_lm_eval_calls_unsafe_stays_so_whatever_is_said_beside_it(folder, spelling):
    assert len(UNSAFE) >= 8
    own = folder / "own.yaml"
    for theirs in UNSAFE:
        for name in ("link", "linked"):
            (folder / name).unlink(missing_ok=True)
        text = f"{plain(folder)}{spelling(folder, theirs)}\nunsafe_code: false\n"
        own.write_text(text)
        before = set(sys.modules)
        with pytest.raises(BadInput, match="--allow-code") as refused:
            refuse_code(folder)
        assert "unsafe_code, by" in str(refused.value)
        assert not {name for name in set(sys.modules) - before if "lm_eval.tasks." in name}


def test_such_a_task_is_not_run_by_a_group_that_says_otherwise(folder, monkeypatch):
    theirs = TASKS / "humaneval"
    (folder / "theirs").symlink_to(theirs)
    (folder / "group.yaml").write_text(
        "group: own\ntask: [{task: humaneval, unsafe_code: false}]\nunsafe_code: false\n"
    )
    import lm_eval.tasks

    from llx.bench.tasks import load as loading

    paths = [str(theirs), str(folder)]
    manager = lm_eval.tasks.TaskManager(include_path=paths, include_defaults=False)
    loading._judge_each(manager)
    with pytest.raises(BadInput, match="humaneval has unsafe_code"):
        manager.load(["own"])


def test_a_group_gives_no_other_data_to_functions_that_would_run_it(folder):
    import lm_eval.tasks

    from llx.bench.tasks import load as loading

    theirs = next(path.parent for path in TASKS.rglob("utils.py") if runs_code(path) == "evaluate")
    name = next(
        found[1]
        for path in sorted(theirs.glob("*.yaml"))
        if (found := re.search(r"^task: (\w+)", path.read_text(), re.MULTILINE))
        and "!function" in path.read_text()
    )
    (folder / "group.yaml").write_text(f"group: own\ntask: [{name}]\ndataset_path: json\n")
    paths = [str(theirs), str(folder)]
    manager = lm_eval.tasks.TaskManager(include_path=paths, include_defaults=False)
    loading._judge_each(manager)
    with pytest.raises(BadInput, match=f"{name} has the tag !function"):
        manager.load(["own"])


def test_functions_that_only_compute_may_be_included(folder):
    hellaswag = TASKS / "hellaswag" / "hellaswag.yaml"
    (folder / "own.yaml").write_text(f"include: {hellaswag}\ntask: own\nnum_fewshot: 1\n")
    refuse_code(folder)


def test_every_function_of_lm_eval_that_runs_code_is_known_as_such():
    """Each Python file that says one of these words beyond doubt is not let through."""
    words = re.compile(
        r"\b(eval|exec)\(|subprocess|os\.system|pickle\.|__import__|import_module|evaluate\.load"
    )
    for path in TASKS.rglob("*.py"):
        code = re.sub(r"#.*|\"{3}.*?\"{3}", "", path.read_text(errors="replace"), flags=re.DOTALL)
        if words.search(re.sub(r"literal_eval\(|\.eval\(", "", code)):
            assert runs_code(path), path


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
CRASHING = {
    "deep lists": "[" * 100_000,
    "deep lists that end": "a: " + "[" * 50_000 + "]" * 50_000,
    "deep objects": '{"a":' * 100_000,
    "deep by indentation": "\n".join(" " * i + "a:" for i in range(900)),
    "laughs": BOMB,
    "itself": "a: &a [*a]\n",
    "a key of itself": "&a ? *a : 1",
    "keys of lists": "{[a, b]: 1, {c: d}: 2}\n",
    "large": "a: " + "x" * (2 << 20),
    "zeros": "\0" * 1000,
    "tags": "a: !!set {a, b}\nb: !!binary aGk=\nc: !!omap [a: 1]\n",
    "a number beyond all": "a: " + "9" * 20_000,
    "a date that is none": "a: 2026-99-99\n",
    "sexagesimal": "a: 190:20:30:" + "59:" * 5000 + "1\n",
}


def test_a_file_that_would_crash_libyaml_is_refused(folder):
    for what in ("deep lists", "laughs", "itself"):
        (folder / "own.yaml").write_text(CRASHING[what])
        with pytest.raises(BadInput, match="is no YAML that can be read"):
            refuse_code(folder)


@pytest.mark.slow
@pytest.mark.parametrize("text", CRASHING.values(), ids=CRASHING)
@pytest.mark.parametrize("where", ["own.yaml", "included"])
def test_no_file_crashes_the_reader(folder, text, where):
    if where == "included":
        (folder / "own.yaml").write_text("include: included\ntask: own\n")
    (folder / where).write_text(text)
    with pytest.raises(BadInput):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**9 }}{{ 'x' * 10**10 }}",
        "{{ (9 ** 9) ** 999999 }}",
        "{{ text" + " ~ text" * 50_000 + " }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ ''.__class__ }}",
        "{{ ('a' * 40 + 'b') | regex_replace('(a+)+$', '') }}",
    ],
)
def test_no_template_of_a_task_takes_for_ever_or_crashes(folder, template):
    (folder / "own.yaml").write_text(plain(folder).replace("{{text}}", template.replace("\n", " ")))
    with pytest.raises(BadInput, match=r"template fails|cannot be made|is no YAML"):
        load(folder)


def test_templates_find_what_lm_eval_gives_them(folder):
    (folder.parent / "data.jsonl").write_text(
        '{"text": "a b", "when": "2026-01-02T03:04:05", "n": 1.5, "l": [1, null, {"k": true}]}\n'
    )
    text = "{{text|regex_replace(' ', '-')}} {{when.year}} {{n}} {{l[2].k}} {{l}}\\n"
    (folder / "own.yaml").write_text(plain(folder).replace("{{text}}", text))
    task = load(folder)["tasks"]["own"]
    assert task.doc_to_text(task.task_docs[0]) == "a-b 2026 1.5 True [1, None, {'k': True}]\n"


@pytest.mark.slow
def test_whatever_is_made_of_these_parts_runs_nothing(folder):
    """Files made at random of what has ever run code, and of what has not."""
    dice = random.Random(SEED)
    marker = folder / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nf = str\n")
    keys = ("process_docs", "doc_to_text", "metadata", "class", "custom_dataset", "filter_list")
    values = (
        *("!function code.f", "!function ../tasks/code.f", "a", "[!function code.f]"),
        *(
            "!!python/name:os.system",
            "!!python/object/apply:os.system [true]",
            "null",
            "&a x",
            "*a",
        ),
    )
    theirs = [*UNSAFE[:3], TASKS / "gsm8k" / "gsm8k.yaml"]
    with Reader(TASKS) as reader:
        assert reader.resolved(theirs[0]).unsafe
    refused = 0
    for _ in range(25):
        lines = dice.sample([f"{key}: {value}" for key in keys for value in values], 3)
        for name in ("own.yaml", "base", "middle"):
            include = dice.choice(["base", "./middle", "../tasks/base", str(dice.choice(theirs))])
            chosen = dice.sample(lines, dice.randrange(1, 3))
            keyed = {line.partition(":")[0]: line for line in chosen}
            also = [f"include: {include}", f"unsafe_code: {dice.choice(['false', 'no', 'true'])}"]
            keyed |= {line.partition(":")[0]: line for line in also if dice.random() < 0.7}
            (folder / name).write_text("task: own\n" + "\n".join(keyed.values()) + "\n")
        try:
            load(folder)
        except BadInput:
            refused += 1
        assert not marker.exists()
    assert refused
