"""What the documents promise: commands that exist, links that lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.main import get_command

from llx.cli import app
from llx.reports.compare.gates import read_gates
from llx.reports.html.page import page_html
from llx.result import read_results
from tests.test_imports import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    *(
        ROOT / f"{name}.md"
        for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "DECISIONS", "SECURITY")
    ),
    *PAGES,
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
# Files that a command of the page writes.
WRITTEN = ("artifacts/", "site/")
WORKFLOWS = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
BLOCKS = [
    block for text in TEXTS.values() for block in re.findall(r"```console\n(.*?)```", text, re.S)
]
TYPED = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
RUN_BY_WORKFLOWS = [
    line for text in TEXTS.values() for line in re.findall(r"^ *- run: (llx .*)$", text, re.M)
]
COMMANDS = [line for line in TYPED if line.startswith("llx ")] + RUN_BY_WORKFLOWS
TARGETS = sorted({line.split()[1] for line in TYPED if line.startswith("make ")})


def test_the_first_commands_stand_in_the_readmes_first_screen():
    screen = TEXTS["README.md"].splitlines()[:24]
    assert any(line.startswith("$ make demo") for line in screen)
    assert any(line.startswith("$ make test") for line in screen)


def test_the_readme_fits_two_screens():
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_documents_parses(line):
    words = shlex.split(line, comments=True)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    command = get_command(app).commands[words[0]]
    assert command.make_context(words[0], words[1:]).command is command


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_in_the_documents_exists(target):
    ended = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_that_is_named_with_its_folder_exists(name):
    named = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|md|sh|yml))`", TEXTS[name])
    meant = [path for path in named if not path.startswith(WRITTEN)]
    assert [path for path in meant if not (ROOT / path).exists()] == []


def test_every_room_has_its_line_in_the_architecture():
    rooms = {
        f"{file.parent.relative_to(ROOT).as_posix()}/"
        for folder in ("src/llx", "graphs", "exporter", "bench", "reports")
        for file in (ROOT / folder).rglob("__init__.py")
    }
    lines = set(re.findall(r"^\| `([\w/]+/)` \|", TEXTS["ARCHITECTURE.md"], re.M))
    assert rooms - {"graphs/dialects/"} <= lines


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file(name):
    for target in re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", TEXTS[name]):
        assert ((ROOT / name).parent / target).exists(), target


def test_the_readme_leads_to_every_page_that_can_be_read_without_the_site():
    made = {"docs/index.md", "docs/api.md", "docs/schemas.md"}
    led = set(re.findall(r"\]\((docs/\w+\.md)\)", TEXTS["README.md"]))
    assert led == {name for name in TEXTS if name.startswith("docs/")} - made


def test_every_command_has_its_line_in_the_table_of_commands():
    assert set(re.findall(r"^\| `llx (\w+)` \|", TEXTS["docs/commands.md"], re.M)) == set(
        get_command(app).commands
    )


def blocks_of(language):
    """Every block in a language, with the document that it stands in."""
    return [
        pytest.param(block, id=f"{name}-{number}")
        for name, text in TEXTS.items()
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.S))
    ]


@pytest.mark.parametrize("block", blocks_of("toml"))
def test_every_file_of_gates_in_the_documents_is_one(block, tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text(block)
    assert read_gates(path)


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_every_workflow_in_the_documents_is_one(block, tmp_path):
    content = yaml.load(block, Loader=yaml.BaseLoader)
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    for step in (step for job in content["jobs"].values() for step in job["steps"]):
        for script in re.findall(r"\baction/\w+\.sh", step.get("run", "")):
            asked = set(re.findall(r"^#   ([A-Z_, ]+?)  ", (ROOT / script).read_text(), re.M))
            assert {name for names in asked for name in names.split(", ")} >= set(step["env"])
        if "uses" not in step:
            continue
        used, _, version = step["uses"].partition("@")
        assert version
        if used == "OWNER/llx":
            assert set(step["with"]) <= set(inputs)
            for name in ("export", "bench"):
                words = shlex.split(step["with"][name])
                assert get_command(app).commands[name].make_context(name, words)
            assert {name for name, one in inputs.items() if one.get("required")} <= set(
                step["with"]
            )
        else:
            assert f"uses: {used}@" in WORKFLOWS or used == "actions/cache"
    (tmp_path / "workflow.yml").write_text(block)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    ended = subprocess.run(
        [*command, "vendor.github-workflows", str(tmp_path / "workflow.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_example_is_the_page_of_the_results_beside_it():
    folder = ROOT / "reports" / "example"
    names = ("fp32", "int8-wo-fp32", "int8-fp32", "int4-fp32")
    results = [one for name in names for one in read_results(folder / f"{name}.json")]
    drawn, kept = (
        json.loads(re.findall('id="specs">(.*?)</script>', text, re.S)[0])
        for text in (page_html(results), (folder / "index.html").read_text())
    )
    assert {name: spec["datasets"] for name, spec in kept.items()} == {
        name: spec["datasets"] for name, spec in drawn.items()
    }


def test_each_promise_of_security_names_a_test_that_holds_it():
    promised = TEXTS["SECURITY.md"].split("## What is promised")[1].split("\n## ")[0]
    for promise in promised.split("\n- ")[1:]:
        assert re.search(r"`tests/[\w/]+\.py`", promise), promise
