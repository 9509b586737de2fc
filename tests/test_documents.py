"""What the documents promise: commands that exist and run, links that lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from typer.main import get_command

from llx.artifact import remember_latest
from llx.cli import app
from llx.reports.html.page import page_html
from llx.result import encode_results, read_results
from tests.checkpoints import TINY, write_checkpoint
from tests.conftest import export_tiny
from tests.reports.made import result
from tests.test_imports import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
BLOCKS = [
    block for text in TEXTS.values() for block in re.findall(r"```console\n(.*?)```", text, re.S)
]
TYPED = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
COMMANDS = [
    re.sub(r"\s+# .*", "", line) for line in TYPED if line.startswith(("llx ", "python -m llx"))
]
TARGETS = sorted({line.split()[1] for line in TYPED if line.startswith("make ")})


def test_the_first_commands_stand_in_the_readmes_first_screen():
    screen = TEXTS["README.md"].splitlines()[:24]
    assert any(line.startswith("$ make demo") for line in screen)
    assert any(line.startswith("$ make test") for line in screen)


@dataclass(frozen=True)
class Run:
    """How a documented command is run here, and a part of what it says.

    `swap`: words in it, and what stands in for them. `last`: the artifact that was exported last.
    `codes`: how it may end; `slow`: it takes long as it is typed.
    """

    says: str
    swap: dict[str, str] = field(default_factory=dict)
    codes: tuple[int, ...] = (0,)
    last: str = "fp32"
    slow: bool = False


TINY_WEIGHTS = {"--size 135m": "--weights path/to/checkpoint"}
NOBODY = {"user@jetson": "user@127.0.0.1:1"}
RUNS = {
    "llx models": Run("llama-2-7b"),
    "llx plan --size 7b --device orin-nx-16": Run("does not fit"),
    "llx export --weights path/to/checkpoint --precision fp16": Run("artifacts/checkpoint-fp16: "),
    # No network: the line that says so.
    "llx export --size 7b": Run("Llama-2-7b-hf is not on this machine", codes=(3,)),
    "llx export --size 7b --weights random": Run("random weights", {"7b": "135m"}, slow=True),
    "llx export --size 405b --weights none": Run("graphs only"),
    'llx generate --chat "Why is the sky blue?"': Run(""),
    "llx bench --engine torch,ort -p 128,512 -n 128 -d 0,1024": Run("tg128 @ d1024", slow=True),
    "llx bench --engine ort -o json > results.json": Run('"test": "tg128"', slow=True),
    "llx report results.json -o site": Run("page: site/index.html"),
    "llx report results.json before.json -o site": Run("The baseline:"),
    "llx eval --engine ort --tasks wikitext,hellaswag --limit 100": Run(
        "the data of task", codes=(3,), slow=True
    ),
    "llx bench --quick": Run("not to be published", slow=True),
    "llx bench --requests 128:32,512:128": Run("req512:128", slow=True),
    "llx bench --until 1%": Run("tg128", slow=True),
    "llx bench --against artifacts/before": Run("threshold", codes=(0, 1), slow=True),
    "llx bench --engine ort --against torch": Run("threshold", codes=(0, 1), slow=True),
    "llx bench --resume": Run("nothing is kept of such a run", slow=True),
    "llx export --size 135m --precision fp16": Run("135m-instruct-fp16: ", slow=True),
    "llx build --engine trt-rtx --sm 86,89": Run("sm89", last="fp16"),
    "llx build --device agx-orin-64 --jetpack 6.2": Run("for TensorRT 10.3", last="fp16"),
    "llx build --device agx-orin-64 --jetpack 6.2 --remote user@jetson": Run(
        "127.0.0.1", NOBODY, codes=(3,), last="fp16"
    ),
    "llx bench --engine trt": Run("trt needs tensorrt", codes=(3,), last="fp16"),
    "llx selftest --gpu": Run("needs an NVIDIA GPU", codes=(3,)),
    "llx export --size 135m --precision int8": Run("checkpoint-int8: ", TINY_WEIGHTS),
    "llx export --size 135m --precision int8 --max-kld 0.005": Run(
        "checkpoint-int8: ", TINY_WEIGHTS
    ),
    "llx export --size 135m --precision int8-wo": Run("checkpoint-int8-wo: ", TINY_WEIGHTS),
    "llx export --size 135m --precision int4 --block 64": Run(
        "checkpoint-int4-b64: ", TINY_WEIGHTS
    ),
    "llx export --size 135m --precision int4 --vocab int8": Run(
        "checkpoint-int4-vocab-int8: ", TINY_WEIGHTS
    ),
    "llx export --size 135m --precision int4 --compute fp32": Run(
        "checkpoint-int4-fp32: ", TINY_WEIGHTS
    ),
}


def parsed(line):
    """The words of a line whose command, options and values there are."""
    words = shlex.split(line.split(" > ")[0])
    words = words[words.index("llx") + 1 :]
    command = get_command(app).commands[words[0]]
    assert command.make_context(words[0], words[1:]).command is command
    return words


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_documents_parses(line):
    assert parsed(line)


def test_every_command_in_the_documents_is_run_and_no_other():
    assert set(COMMANDS) == set(RUNS)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """What the documented commands name: a checkpoint, artifacts, results. Copy it."""
    house = tmp_path_factory.mktemp("house")
    for name in ("fp32", "fp16"):
        made = export_tiny(house / name, name, replace(TINY, context=2048, head_dim=16))
        shutil.copytree(made.folder, house / "artifacts" / name)
    shutil.copytree(house / "artifacts" / "fp32", house / "artifacts" / "before")
    write_checkpoint(house / "path" / "to" / "checkpoint")
    for name, speed in (("before", 50.0), ("results", 40.0)):
        (house / f"{name}.json").write_bytes(encode_results([result(speed=speed)]))
    return house


@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of much
@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=pytest.mark.slow if run.slow else ()) for line, run in RUNS.items()],
)
def test_every_command_in_the_documents_runs(line, house, llx, tmp_path, monkeypatch):
    from huggingface_hub import constants

    run = RUNS[line]
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(house, tmp_path, dirs_exist_ok=True)
    remember_latest(tmp_path / "artifacts" / run.last)
    swapped = line
    for typed, stand_in in run.swap.items():
        assert typed in line
        swapped = swapped.replace(typed, stand_in)
    ended = llx(*parsed(swapped))
    assert ended.code in run.codes, ended.stderr
    assert "Traceback" not in ended.stderr
    if ended.code == 3:
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert run.says in " ".join((ended.stdout + ended.stderr).split())
    shutil.rmtree(tmp_path / "artifacts")  # some are large


def test_every_option_in_the_documents_text_is_one():
    """`--strip` of a sentence, which no block of commands has."""
    known = {
        spelling
        for command in get_command(app).commands.values()
        for param in command.params
        for spelling in (*param.opts, *param.secondary_opts)
    }
    known |= {"--help", "--version", "--work"}  # the last of a script in benchmarks/
    for name in ("README.md", "CONTRIBUTING.md"):
        prose = re.sub(r"```.*?```", "", TEXTS[name], flags=re.S)
        for code in re.findall(r"`([^`\n]+)`", prose):
            found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", code))
            assert found <= known, code


def test_what_is_installed_elsewhere_is_an_extra():
    project = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    named = [line for line in TYPED if line.startswith("pip install")]
    assert named
    for line in named:
        (inside,) = re.findall(r"'\.\[([\w,]+)\]'", line)
        assert set(inside.split(",")) <= set(project["optional-dependencies"]), line


OTHERS = ("git clone", "source .venv/bin/activate", "make ", "pip install ")


def test_every_line_that_is_typed_in_the_documents_is_of_a_kind_that_is_tested():
    assert [line for line in TYPED if not line.startswith(("llx ", "python -m llx", *OTHERS))] == []


@pytest.mark.parametrize("target", ["demo", "example"])
def test_the_commands_of_the_makefile_parse(target):
    shown = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = re.findall(r"bin/(llx [^\n]*)", shown.stdout)
    assert lines
    for line in lines:
        assert parsed(line)


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_in_the_documents_exists(target):
    ended = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXTS[name]):
        assert (ROOT / target).exists(), target


def test_every_command_has_its_line_in_the_readme():
    assert set(re.findall(r"^\| `llx (\w+)` \|", TEXTS["README.md"], re.M)) == set(
        get_command(app).commands
    )


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
