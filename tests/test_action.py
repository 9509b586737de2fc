"""The GitHub action and the workflows: valid by their schemas, and their scripts run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import llx
from llx.result import encode_results, read_results
from tests.checkpoints import TINY, write_checkpoint
from tests.reports.pairs import judged, turned

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
# What another repository copies: the page shows these very files.
COPIED = ROOT / "examples" / "pull-request"
OF_OTHERS = sorted((COPIED / ".github" / "workflows").glob("*.yml"))
ALL = [*WORKFLOWS, *OF_OTHERS, ACTION]


RELEASE = f"v{llx.__version__}"


def loaded(path):
    """A YAML file whose `on` is a name, and no truth."""
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [("github-workflows", [*WORKFLOWS, *OF_OTHERS]), ("github-actions", [ACTION])],
)
def test_the_files_are_what_their_schema_asks_for(schema, paths):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    ended = subprocess.run(
        [*command, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


SCRIPTS = [*sorted((ROOT / "action").iterdir()), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_hold_nothing_that_shellcheck_finds(script):
    command = [str(Path(sys.executable).parent / "shellcheck"), str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_actions_of_others_are_named_by_their_commit(path):
    for used in re.findall(r"uses: (\S+)", path.read_text()):
        ours = used.startswith("./") or used == f"OWNER/llx@{RELEASE}"
        assert ours or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used)


def test_the_page_shows_the_files_that_are_copied():
    text = (ROOT / "docs" / "ci.md").read_text()
    blocks = re.findall(r"```(?:yaml|toml)\n(.*?)```", text, re.S)
    files = [*OF_OTHERS, COPIED / "gates.toml"]
    assert sorted(blocks) == sorted(file.read_text() for file in files)
    told = (COPIED / "README.md").read_text()
    assert all(file.relative_to(COPIED).as_posix() in told for file in files)


def test_llx_is_taken_at_one_release_and_gates_are_the_same_wherever_something_is_judged():
    steps = [step for path in OF_OTHERS for step in steps_of(path)]
    checkouts = [s["with"] for s in steps if s.get("with", {}).get("repository") == "OWNER/llx"]
    assert [checkout["ref"] for checkout in checkouts] == [RELEASE] * 3
    gates = {
        s.get("with", {}).get("gate") or s.get("env", {}).get("LLX_GATE")
        for s in steps
        if "/llx@" in s.get("uses", "") or "llx/action/" in s.get("run", "")
    }
    assert {Path(gate).name for gate in gates} == {"gates.toml"}
    # A cache is found by its paths as well as by its key.
    caches = [s["with"] for s in steps if "actions/cache@" in s.get("uses", "")]
    assert len(caches) == 2
    assert caches[0] == caches[1]


def steps_of(path):
    content = loaded(path)
    jobs = [content["runs"]] if path == ACTION else content["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_nothing_of_an_event_is_pasted_into_a_script(path):
    assert not [step for step in steps_of(path) if "${{" in step.get("run", "")]


def test_dependencies_are_audited_by_the_clock_and_where_they_change():
    audit = loaded(ROOT / ".github" / "workflows" / "audit.yml")
    assert audit["on"]["schedule"]
    assert {"constraints.txt", "pyproject.toml"} <= set(audit["on"]["pull_request"]["paths"])
    (run,) = [step["run"] for job in audit["jobs"].values() for step in job["steps"][2:]]
    assert re.search(r"pip-audit==[\d.]+ .*-r constraints\.txt$", run)


def test_what_may_write_runs_nothing_of_a_pull_request():
    for path in [*WORKFLOWS, *OF_OTHERS]:
        content = loaded(path)
        of_pull_request = "pull_request" in content["on"]
        writes = "write" in json.dumps(content.get("permissions", {}))
        assert not (of_pull_request and writes)
        assert "pull_request_target" not in content["on"]
        if "workflow_run" in content["on"]:
            checkouts = [s for s in steps_of(path) if "checkout" in s.get("uses", "")]
            assert not any("${{" in step["with"].get("ref", "") for step in checkouts)
        if "self-hosted" in path.read_text():
            assert set(content["on"]) <= {"workflow_dispatch", "schedule"}


@pytest.fixture
def path_with_llx(tmp_path):
    """A PATH on which `llx` and `python3` are those of this environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "llx").write_text(f'#!/bin/sh\nexec {sys.executable} -m llx "$@"\n')
    (folder / "llx").chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(script, path, folder, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "action" / script)],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def measure(path, tmp_path, head, base, gates):
    (tmp_path / "gates.toml").write_text(gates)
    bench = "--engine ort -p 8 -n 4 --max-repetitions 5 --no-roofline"
    return run(
        "measure.sh",
        path,
        tmp_path,
        LLX_EXPORT="--weights 'the model' --precision fp32",
        LLX_BENCH=bench,
        LLX_HEAD=str(head),
        LLX_BASE=str(base),
        LLX_OUTPUT="out",
        LLX_GATE="gates.toml",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
    )


SAME_NUMBERS = """
[[gate]]
metric = "KLD *"
kind = "deterministic"
threshold = "10%"
negligible = 1e-6
"""
FEWER_BYTES = """
[[gate]]
metric = "artifact bytes"
kind = "deterministic"
threshold = "1%"
limit = 1
"""


@pytest.mark.slow
def test_the_actions_steps_measure_compare_and_report(path_with_llx, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write_checkpoint(one / "the model")
    shutil.copytree(one, other)
    ended = measure(path_with_llx, tmp_path, one, other, SAME_NUMBERS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = read_results(tmp_path / "out" / "results.json")
    assert [bool(result.against) for result in results] == [False, True]
    assert (tmp_path / "out" / "report.md").is_file()
    said = (tmp_path / "out" / "comparison.md").read_text()
    assert "no regression" in said
    assert (tmp_path / "summary.md").read_text() == said
    ended = measure(path_with_llx, tmp_path, one, other, FEWER_BYTES)
    assert ended.returncode == 1
    assert "REGRESSED: artifact bytes" in ended.stdout


def test_a_checkout_that_exports_nothing_stops_the_action(path_with_llx, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = measure(path_with_llx, tmp_path, tmp_path / "empty", tmp_path / "empty", SAME_NUMBERS)
    assert ended.returncode == 2
    assert "the model" in ended.stderr
    assert not (tmp_path / "out" / "comparison.md").exists()


def test_arguments_are_words_as_in_a_shell_and_none_where_there_are_none(path_with_llx, tmp_path):
    # A recording double of llx: it writes down what it is called with, and measures nothing.
    llx = tmp_path / "bin" / "llx"
    llx.write_text(f'#!/bin/sh\nprintf "<%s>" "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls\n')
    settings = {"LLX_HEAD": ".", "LLX_BASE": ".", "LLX_OUTPUT": "out"}
    run("measure.sh", path_with_llx, tmp_path, LLX_EXPORT="-w 'a  b'", LLX_BENCH="", **settings)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("<export><-w><a  b><-o>")
    assert "<>" not in calls[2]
    assert calls[2].startswith("<bench>")
    (tmp_path / "calls").unlink()
    ended = run("measure.sh", path_with_llx, tmp_path, LLX_EXPORT="'", LLX_BENCH="", **settings)
    assert ended.returncode == 2
    assert "not quoted as in a shell: '" in ended.stderr
    assert not (tmp_path / "calls").exists()


# A recording double of GitHub's command line: it answers from files, and writes down its calls.
GH = """#!{python}
import json, pathlib, sys
here = pathlib.Path({folder!r})
arguments = sys.argv[1:]
with open(here / "calls", "a") as calls:
    print(json.dumps(arguments), file=calls)
url = next(argument for argument in arguments if argument.startswith("repos/"))
for argument in arguments:
    if argument.startswith("body=@"):
        (here / "body").write_text(pathlib.Path(argument[6:]).read_text())
answer = here / ("pulls" if url.endswith("/pulls") else "comments")
if "--jq" in arguments:
    print(answer.read_text().strip())
"""


@pytest.mark.parametrize(("known", "method"), [("", "POST"), ("7", "PATCH")])
@pytest.mark.parametrize("worse", [False, True])
def test_one_comment_is_written_and_then_changed(path_with_llx, tmp_path, known, method, worse):
    results = turned(0.8, "slower") if worse else turned(1.0, "no change")
    ended, calls, body = comment(path_with_llx, tmp_path, results, "12", known)
    assert ended.returncode == 0, ended.stderr
    last = calls[-1]
    assert last[last.index("--method") + 1] == method
    assert (f"comments/{known}" if known else "issues/12/comments") in " ".join(last)
    assert body.startswith("<!-- llx bench -->\n**")
    assert ("REGRESSED: tg128" in body) == worse


def test_a_head_that_is_no_pull_requests_any_more_is_not_commented_on(path_with_llx, tmp_path):
    ended, calls, body = comment(path_with_llx, tmp_path, turned(1.0, "no change"), "", "")
    assert ended.returncode == 0
    assert body is None
    assert len(calls) == 1


def test_the_comment_judges_by_the_gates_that_the_run_was_judged_by(path_with_llx, tmp_path):
    (job,) = jobs_of_another("bench-comment").values()
    gate = step_that_uses(job, "comment.sh")["env"]["LLX_GATE"]
    checkout = step_that_uses(job, "actions/checkout@")["with"]
    assert gate == f"{checkout['path']}/{checkout['sparse-checkout']}"
    assert "ref" not in checkout  # the default branch's
    (tmp_path / gate).parent.mkdir()
    shutil.copy(COPIED / "gates.toml", tmp_path / gate)
    slower = turned(0.97, "slower")
    ended, _, body = comment(path_with_llx, tmp_path, slower, "12", "", LLX_GATE=gate)
    assert ended.returncode == 0, ended.stderr
    assert "REGRESSED" not in body
    (tmp_path / gate).write_text('[[gate]]\nmetric = "tg*"\nthreshold = "1%"\n')
    ended, _, body = comment(path_with_llx, tmp_path, slower, "12", "", LLX_GATE=gate)
    assert "REGRESSED: tg128" in body


def test_results_that_are_none_are_not_commented(path_with_llx, tmp_path):
    ended, _, body = comment(path_with_llx, tmp_path, [judged()], "12", "")
    assert ended.returncode == 2
    assert body is None


def comment(path, tmp_path, results, pulls, comments, **settings):
    """Runs comment.sh; its end, the calls of gh, and the comment's text."""
    (tmp_path / "pulls").write_text(pulls)
    (tmp_path / "comments").write_text(comments)
    (tmp_path / "results.json").write_bytes(encode_results(list(results)))
    gh = tmp_path / "bin" / "gh"
    gh.write_text(GH.format(python=sys.executable, folder=str(tmp_path)))
    gh.chmod(0o755)
    ended = run(
        "comment.sh",
        path,
        tmp_path,
        GH_TOKEN="none",
        REPOSITORY="one/two",
        HEAD_OWNER="somebody",
        HEAD_BRANCH="b",
        HEAD_SHA="ab" * 20,
        RESULTS="results.json",
        **settings,
    )
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    body = tmp_path / "body"
    return ended, calls, body.read_text() if body.exists() else None


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone, and the repository that it is one of, with a commit."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    remote, folder = tmp_path / "remote.git", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(tmp_path, "clone", "--quiet", str(remote), str(folder))
    (folder / "README.md").write_text("a project")
    git(folder, "add", "README.md")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "push", "--quiet", "origin", "HEAD:main")
    return folder, remote


def git(folder, *arguments):
    ended = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return ended.stdout


def jobs_of_another(name):
    """The jobs of a workflow that the owner of another repository copies."""
    return loaded(COPIED / ".github" / "workflows" / f"{name}.yml")["jobs"]


def step_that_uses(job, part):
    return next(step for step in job["steps"] if part in step.get("uses", step.get("run", "")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_repository_measures_its_pull_requests_and_keeps_a_history_as_documented(
    path_with_llx, clone, tmp_path
):
    folder, remote = clone
    write_checkpoint(folder / "models" / "chat", replace(TINY, context=2048))
    gates = (COPIED / "gates.toml").read_text()
    (folder / "gates.toml").write_text(gates.replace("0.02", "10"))  # random weights are worse
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "a model")
    git(folder, "push", "--quiet", "origin", "HEAD:main")
    work = tmp_path / "work"
    for name in ("head", "base"):
        git(tmp_path, "clone", "--quiet", "--branch", "main", str(remote), str(work / name))

    asked = step_that_uses(jobs_of_another("bench")["bench"], "/llx@")["with"]
    ended = run(
        "measure.sh",
        path_with_llx,
        work,
        **{f"LLX_{name.upper()}": value for name, value in asked.items()},
        LLX_OUTPUT="llx-report",
        GITHUB_ACTIONS="true",
    )
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr  # 1: speeds of a busy machine
    found = llx.compare(work / "llx-report" / "results.json")
    assert not [one for one in found.regressed if one.kind == "deterministic"]
    assert "::notice title=llx compare::" in ended.stdout

    # The next run restores what this one made, and makes nothing of it anew.
    work_left, checkout = work / "llx-work", tmp_path / "next" / "base"
    assert sorted(path.name for path in work_left.iterdir()) == ["base", "head"]
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(remote), str(checkout))
    words = [*asked["export"].split(), "-o", str(work_left / "base"), "--overwrite"]
    again = subprocess.run(
        ["llx", "export", *words],
        cwd=checkout,
        env=os.environ | {"PATH": path_with_llx},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing to do" in again.stdout

    jobs = jobs_of_another("history")
    (folder / "llx").symlink_to(ROOT)
    values = {"${{ github.ref_name }}": "main", "${{ github.sha }}": "ab" * 20}
    for step in [*jobs["measure"]["steps"], *jobs["page"]["steps"]]:
        if "run" not in step or "pip install" in step["run"]:
            continue
        command = step["run"].replace("llx bench", "llx bench -p 16 -n 8")  # usual lengths: minutes
        settings = {name: values.get(value, value) for name, value in step.get("env", {}).items()}
        settings["RESULTS"] = "results.json"
        ended = subprocess.run(
            ["bash", "-ec", command],
            cwd=folder,
            env=os.environ | {"PATH": path_with_llx} | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, (command, ended.stderr)
    (line,) = git(remote, "show", "llx-history:main.jsonl").splitlines()
    assert (json.loads(line)["label"], json.loads(line)["branch"]) == ("ab" * 20, "main")
    assert (folder / "site" / "index.html").is_file()


def remember(path, folder, made, label, branch="main"):
    (folder / "results.json").write_bytes(encode_results([made]))
    settings = {"BRANCH": branch, "LABEL": label, "OUTPUT": "site", "RESULTS": "results.json"}
    return run("remember.sh", path, folder, **settings)


@pytest.mark.slow
def test_each_branch_has_a_history_on_a_branch_of_its_own(path_with_llx, clone):
    folder, remote = clone
    for branch, day in (("main", 1), ("main", 2), ("fix/this", 3)):
        made = replace(judged(), created=f"2026-11-0{day}T00:00:00+00:00")
        ended = remember(path_with_llx, folder, made, f"commit {day}", branch)
        assert ended.returncode == 0, ended.stderr
    names = git(remote, "ls-tree", "--name-only", "llx-history").split()
    assert names == ["fix-this.jsonl", "main.jsonl"]
    kept = git(remote, "show", "llx-history:main.jsonl").splitlines()
    assert [json.loads(line)["label"] for line in kept] == ["commit 1", "commit 2"]
    assert git(remote, "rev-list", "--count", "llx-history").strip() == "3"
    assert (folder / "site" / "index.html").is_file()
    # What is checked out is as it was.
    assert git(folder, "status", "--short").split() == ["??", "results.json", "??", "site/"]
    assert git(remote, "ls-tree", "--name-only", "main").split() == ["README.md"]


@pytest.mark.slow
def test_a_push_that_came_between_loses_nothing(path_with_llx, clone, tmp_path):
    folder, remote = clone
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(remote), str(other))
    # Before the first push from one clone another one pushes its own line.
    hook = folder / ".git" / "hooks" / "pre-push"
    first = replace(judged(), created="2026-11-01T00:00:00+00:00")
    (other / "results.json").write_bytes(encode_results([first]))
    hook.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/done ] && exit 0\ntouch {tmp_path}/done\ncd {other}\n"
        f"unset $(git rev-parse --local-env-vars)\n"
        f"BRANCH=main LABEL=theirs OUTPUT=site RESULTS=results.json {ROOT}/action/remember.sh\n"
    )
    hook.chmod(0o755)
    second = replace(judged(), created="2026-11-02T00:00:00+00:00")
    ended = remember(path_with_llx, folder, second, "ours")
    assert ended.returncode == 0, ended.stderr
    kept = git(remote, "show", "llx-history:main.jsonl").splitlines()
    assert [json.loads(line)["label"] for line in kept] == ["theirs", "ours"]
