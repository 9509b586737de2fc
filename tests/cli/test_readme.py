"""Every command of the README and of docs/, run as it is typed, block by block.

Only the checkpoint is a stand-in, a small one, by `STAND_INS`; what needs a GPU, a Jetson or the
hub ends as it does for a user without one.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import llx as door
from llx.corpus import evaluation_text
from llx.gpu import find_gpu
from tests.checkpoints import TINY, write_checkpoint
from tests.test_documents import TEXTS
from tests.test_imports import ROOT, tomllib

BLOCKS = [
    (name, [line[2:] for line in block.splitlines() if line.startswith("$ ")])
    for name, text in TEXTS.items()
    if name == "README.md" or name.startswith("docs/")
    for block in re.findall(r"```console\n(.*?)```", text, re.S)
]
# Each block once, wherever else it stands.
RUN: dict[tuple[str, ...], str] = {}
for _name, _block in BLOCKS:
    if any(line.startswith("llx ") for line in _block):
        RUN.setdefault(tuple(_block), _name)
# A model of the size that is typed would take minutes and gigabytes.
STAND_INS = (
    (r"--size 7b --weights random", "--size 135m --weights random --context 64"),
    (r"--size 135m(?! --weights)", "--weights tiny"),
    (r"path/to/checkpoint", "tiny"),
    (r"(--against \S+|--until 1%)", r"\1 -p 16 -n 8 --max-repetitions 5"),  # rounds take minutes
    (r"-p 128,512 -n 128 -d 0,1024", "-p 16,64 -n 8 -d 0,32"),
    (r"llx bench(?= --text| --engine torch,ort -o| *$)", "llx bench -p 16 -n 8"),
    (r"--window 2048", "--window 256"),
    (r"--requests 128:32,512:128", "--requests 32:8,64:16"),
    (r"llx bench --resume", "llx bench --resume -p 16 -n 8"),
)
# What this machine lacks, and the word that says so.
LACKING = {
    "llx export --size 7b": "network",
    "llx eval ": "wikitext",
    "--remote user@jetson": "jetson",
    **({} if find_gpu() else {"--engine trt ": "trt", "selftest --gpu": "GPU"}),
}


KEPT = ("before.json", "results.json", "main.jsonl")


def typed(line: str) -> tuple[list[str], str | None]:
    """The words of a line without its comment, and the file that its output goes to."""
    for pattern, stand_in in STAND_INS:
        line = re.sub(pattern, stand_in, line)
    words = shlex.split(line, comments=True)[1:]
    return (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)


def lacks(line: str) -> str | None:
    bare = line.partition("#")[0].strip() + " "
    return next(
        (word for part, word in LACKING.items() if part in bare and "--weights" not in bare), None
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the reader is: two artifacts, results of before and now, and a history."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_checkpoint(folder / "tiny", replace(TINY, context=2048))
        text = evaluation_text().text
        (folder / "novel.txt").write_text(text[:9000])
        (folder / "code.txt").write_text(text[20000:26000])
        artifact = door.export(weights="tiny")
        shutil.copytree(artifact.folder, folder / "artifacts" / "before")
        for name in ("before.json", "results.json"):
            door.bench(prompts=[16], generated=[8], roofline=False).write(name)
        door.report("before.json", "site", history="main.jsonl", branch="main")
        (folder / "kept").mkdir()
        for name in KEPT:
            shutil.copy(name, "kept")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of much
@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=f"{name} {block[0][:40].strip()}") for block, name in RUN.items()],
)
def test_the_commands_of_a_block_run_as_they_are_typed(llx, place, monkeypatch, block):
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n"))  # of llx chat
    for name in KEPT:  # a page's blocks do not build on another page's
        shutil.copy(f"kept/{name}", name)
    for line in (line for line in block if line.startswith("llx ")):
        words, target = typed(line)
        ended = llx(*words)
        assert "Traceback" not in ended.stderr, line
        missing = lacks(line)
        if missing:
            assert ended.code == 3, (line, ended.stderr)
            assert missing in ended.stdout + ended.stderr, (line, ended.stderr)
            continue
        # What two runs are is not the page's to promise: 1 is "slower".
        measured = "--against" in line or "compare" in line
        assert ended.code in ((0, 1) if measured else (0,)), (line, ended.stderr)
        if target:
            Path(target).write_text(ended.stdout)


def test_every_stand_in_stands_for_something():
    text = "\n".join(line for block in RUN for line in block)
    assert all(re.search(pattern, text) for pattern, _ in STAND_INS)
    assert all(any(part in f"{line} " for line in text.splitlines()) for part in LACKING)


def test_every_extra_that_is_installed_exists():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for line in (line for _, block in BLOCKS for line in block)
        for extras in re.findall(r"pip install '[.\w]*\[([\w,]+)\]'", line)
        for extra in extras.split(",")
    }
    assert len(named) >= 5
    assert named <= set(known)


def test_every_other_command_is_one_of_a_shell():
    """Nothing is left out because nobody knew how to run it."""
    first = {line.split()[0] for _, block in BLOCKS for line in block}
    compiled = {"ln", "g++", "./ort_generate"}  # in test_program.py
    assert first <= {"llx", "make", "git", "pip", "source", *compiled}
