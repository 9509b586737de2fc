"""Every command in every odd surrounding: it does its work, or says in a line why it cannot.

In each surrounding one command is run, in the next another; with LLX_TEST_ALL=1 in the environment
every command in every surrounding, which takes half an hour.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from llx.api.reference import open_reference
from llx.bench.fidelity.reference import capture
from llx.corpus import Cut
from llx.result import encode_results
from tests.cli.test_options import TASKS
from tests.conftest import export_tiny
from tests.reports.made import result
from tests.surroundings import LATIN1, SURROUNDINGS, Surrounding, child, fault_of

QUICK = (
    "models",
    "plan 7b",
    "plan 7b -o json",
    "inspect artifact",
    "compare before.json results.json",
    "compare before.json results.json -o json",
    "compare before.json results.json -o md",
    "build fp16 --engine trt",
    "--help",
)
LONG = (
    "bench artifact -p 4 -n 2 -r 2 --quick --no-roofline -o json",
    "report results.json before.json -o out --history past",
    "generate artifact hi -n 3",
    "export --weights checkpoint -o new",
    "check artifact",
    "build fp16 --device agx-orin-64 --jetpack 6.2 -o bundle",
    "doctor",
    "reference artifact --window 48 --windows 2",
    "build fp16 --engine trt-rtx --sm 86",
    "generate artifact hi -n 3 --engine torch",
    "eval artifact --tasks llx_choice --limit 1 --include-path own -o json",
    "bench artifact --engine torch -p 4 -n 2 -r 2 --no-fidelity --no-roofline",
)
WRITTEN = ("out", "past", "new", "bundle")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """All that a command may be given. Copy it."""
    house = tmp_path_factory.mktemp("house")
    made = export_tiny(house)
    capture(made, open_reference, Cut(window=64, windows=2))
    made.folder.rename(house / "artifact")
    export_tiny(house / "other", "fp16").folder.rename(house / "fp16")
    for name, speed in (("before", 50.0), ("results", 40.0)):
        (house / f"{name}.json").write_bytes(encode_results([result(speed=speed)]))
    shutil.copytree(TASKS, house / "own")
    return house


def chosen() -> list[tuple[Surrounding, str]]:
    """Which commands are run where."""
    if os.environ.get("LLX_TEST_ALL"):
        return [(around, line) for around in SURROUNDINGS for line in (*QUICK, *LONG)]
    in_turns = [line for pair in zip(LONG, QUICK * 2, strict=False) for line in pair]
    return [(around, in_turns[i % len(in_turns)]) for i, around in enumerate(SURROUNDINGS)]


def furnished(house: Path, folder: Path, around: Surrounding, line: str) -> tuple[Path, list[str]]:
    """A working directory with all that the command needs, and the words of the command."""
    shutil.copytree(house, folder)
    for file in (folder / "own").glob("*.yaml"):
        file.write_text(file.read_text().replace("@FOLDER@", str(folder / "own")))
    words = line.split()
    odd = os.fsdecode(LATIN1) if around.odd_names else ""
    for i, word in enumerate(words):
        if (folder / word).exists() or word in WRITTEN:
            if odd and (folder / word).exists():
                (folder / word).rename(folder / f"{odd}{word}")
            words[i] = str(folder / f"{odd}{word}") if around.away else f"{odd}{word}"
    return folder, words


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_command_works_or_says_why_not_wherever_it_is_started(house, tmp_path, capsys):
    found, runs, impossible = [], chosen(), 0
    for i, (around, line) in enumerate(runs):
        folder, words = furnished(house, tmp_path / str(i), around, line)
        ended = child(words, around, folder)
        shutil.rmtree(folder)
        if ended is None:
            impossible += 1
        elif fault := fault_of(ended, around):
            found.append(f"{around.name}: llx {line}: {fault}")
    with capsys.disabled():
        print(
            f"\n{len(runs)} commands in {len(SURROUNDINGS)} surroundings, {len(found)} that end "
            f"wrongly, {impossible} that this machine does not allow",
            end=" ",
        )
    assert not found, "\n".join(found)
