"""What a command leaves outside of what it was asked to write: nothing that is not documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import llx
from tests.checkpoints import write_checkpoint

TASK = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
# Whose they are: of llx what SECURITY.md names; the others' caches, where a command asks them.
# PyTorch's compiler keeps what it made beside other temporary files.
ALLOWED = (".cache/llx/", ".local/state/llx/", ".cache/huggingface/", "tmp/torchinductor_")


def run(folder, home, *arguments):
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "llx", *map(str, arguments)],
        cwd=folder,
        env=kept | quiet | {"HOME": str(home), "TMPDIR": str(home / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    return ended.stdout


def test_importing_llx_switches_the_telemetry_of_its_libraries_off(tmp_path):
    for name in llx.QUIET:
        assert os.environ[name]
    code = "import llx, os; print([os.environ[name] for name in llx.QUIET])"
    told = {"ORT_DISABLE_TELEMETRY": "0", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, check=True)
    assert said.stdout.strip() == b"['0', '1']"  # what a user has said stands


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    """By itself it writes an id of this machine into the home folder, and sends it."""
    code = "import llx, openvino, sys; print(sys.modules['openvino_telemetry'])"
    told = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, check=True)
    assert said.stdout.strip() == b"None"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_command_leaves_anything_in_a_fresh_home(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "work"
    (home / "tmp").mkdir(parents=True)
    (folder / "tasks").mkdir(parents=True)
    write_checkpoint(folder / "checkpoint")
    (folder / "data.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    task = TASK.replace("DATA", str(folder / "data.jsonl"))
    (folder / "tasks" / "own.yaml").write_text(task)
    quick = ("-p", "4", "-n", "2", "-r", "2", "--no-roofline", "-o", "json")
    found = {}
    for command in (
        ("doctor",),
        ("export", "--weights", "checkpoint", "-o", "made"),
        ("reference", "made", "--window", "16", "--windows", "2"),
        ("inspect", "made"),
        ("generate", "made", "hi", "-n", "2"),
        ("check", "made"),
        ("eval", "made", "--tasks", "own", "--include-path", "tasks"),
        ("bench", "made", "--engine", "ort,torch,openvino", *quick),
        ("report", "results.json", "-o", "page"),
        ("compare", "results.json", "results.json"),
    ):
        said = run(folder, home, *command)
        if command[0] == "bench":
            (folder / "results.json").write_text(said)
        files = (path for path in home.rglob("*") if not path.is_dir())
        names = {str(path.relative_to(home)) for path in files}
        found[command[0]] = sorted(name for name in names if not name.startswith(ALLOWED))
    assert not any(found.values()), found
