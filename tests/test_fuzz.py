"""Files that nobody has thought of: bytes, numbers and words of every input changed at random.

`tests/test_any_value.py` replaces each value by others. Here a file is changed anywhere, cut,
doubled and spliced, as it comes: a few of each kind in `make test-slow`, as many as LLX_FUZZ says
otherwise, from the seed LLX_FUZZ_SEED. What was tried and how it ended is printed.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from llx.manifest import CHAT_TEMPLATE
from llx.reports.history import remember
from tests.bounded import Bounded
from tests.checkpoints import SEED, write_checkpoint
from tests.mutations import damaged_text, mutated, mutated_text
from tests.reports.made import result
from tests.test_any_value import INPUTS, Input, artifact, results, vouch_for

ATTEMPTS = int(os.environ.get("LLX_FUZZ", "4"))
FUZZ_SEED = int(os.environ.get("LLX_FUZZ_SEED", SEED))
TEXT = (".json", ".toml", ".jinja", ".yaml", ".jsonl", ".txt", ".ndjson")
TASK = """dataset_path: json
dataset_kwargs: {data_files: {test: DATA}, cache_dir: CACHE}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}} {{n + 1}} {{l[0] | upper}}"
doc_to_choice: ["a", "{{text}}"]
doc_to_target: 0
description: &d "x"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0, a: *d}
"""


def history(folder: Path) -> None:
    results(folder)
    remember([result()], folder / "history.jsonl", "label")


def remembers(folder: Path) -> list[list[str]]:
    base, page = str(folder / "base.json"), str(folder / "page")
    return [["report", base, "-o", page, "--history", str(folder / "history.jsonl")]]


def asked(folder: Path) -> list[list[str]]:
    return [["generate", str(folder), "hi", "-n", "2", "--chat"]]


def task(folder: Path) -> None:
    artifact(folder)
    tasks = folder / "tasks"
    tasks.mkdir()
    line = {"text": "a", "n": 1, "l": ["b"]}
    (folder / "data.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    places = {"DATA": str(folder / "data.jsonl"), "CACHE": str(folder / "cache")}
    made = TASK
    for name, place in places.items():
        made = made.replace(name, place)
    (tasks / "base.yaml").write_text(made)
    (tasks / "own.yaml").write_text("include: base.yaml\ntask: own\n")


def evaluates(folder: Path) -> list[list[str]]:
    tasks = ["--tasks", "own", "--include-path", str(folder / "tasks"), "--limit", "1"]
    return [["eval", str(folder), *tasks]]


def calibration_text(folder: Path) -> None:
    write_checkpoint(folder)
    (folder / "text.txt").write_text("A text to calibrate on, of some length. " * 120)


def calibrates(folder: Path) -> list[list[str]]:
    text = ["--calibration-text", str(folder / "text.txt")]
    out = ["--weights", str(folder), "-o", f"{folder}-out", "--context", "32", "--overwrite"]
    return [["export", *out, "--precision", "int8", "--calibration-windows", "2", *text]]


MORE = {
    "a history": Input(history, "history.jsonl", damaged_text, remembers),
    "a chat template": Input(artifact, CHAT_TEMPLATE, damaged_text, asked),
    "a task file": Input(task, "tasks/base.yaml", damaged_text, evaluates),
    "a text to calibrate on": Input(calibration_text, "text.txt", damaged_text, calibrates),
}


@dataclass(frozen=True)
class Tried:
    """What came of one kind."""

    codes: Counter[int | None]
    faults: list[str]


def fuzz(given: Input, folder: Path, commands: Bounded, attempts: int, seed: int) -> Tried:
    """Change the file so many times, and run what reads it."""
    given.write(folder)
    path, dice = folder / given.file, random.Random(seed)
    whole = path.read_bytes()
    change = mutated_text if path.suffix in TEXT else mutated
    tried = Tried(Counter(), [])
    first = commands.run(*given.commands(folder)[0])  # what fails undamaged would show nothing
    assert first.code in (0, 1), first.err
    for _ in range(attempts):
        what, data = change(whole, dice)
        path.write_bytes(data)
        vouch_for(folder, given.file)
        for command in given.commands(folder):
            ended = commands.run(*command)
            tried.codes[ended.code] += 1
            if ended.fault:
                tried.faults.append(f"{what}: llx {command[0]}: {ended.fault}")
                _keep(f"{folder.name}-{len(tried.faults)}-{path.name}", data)
            if ended.code != 0 and command[0] == "export":
                break
    return tried


def _keep(name: str, data: bytes) -> None:
    """Where LLX_FUZZ_KEEP names a folder, what ended wrongly is left there."""
    if kept := os.environ.get("LLX_FUZZ_KEEP"):
        Path(kept).mkdir(exist_ok=True)
        (Path(kept) / name).write_bytes(data)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory):
    with Bounded(tmp_path_factory.mktemp("fuzzed")) as process:
        yield process


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("name", [*INPUTS, *MORE])
def test_whatever_is_changed_ends_in_a_line(name, tmp_path, commands, capsys):
    given = {**INPUTS, **MORE}[name]
    folder = tmp_path / "".join(c if c.isalnum() else "-" for c in name)
    tried = fuzz(given, folder, commands, ATTEMPTS, FUZZ_SEED)
    with capsys.disabled():
        ends = ", ".join(f"{n} with {code}" for code, n in sorted(tried.codes.items(), key=str))
        print(f"\n{name}: {ATTEMPTS} files from seed {FUZZ_SEED}, {ends}", end=" ")
    assert not tried.faults, "\n".join(tried.faults)
