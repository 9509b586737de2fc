"""The door from a plain script, a thread and a notebook: tests run in processes of their own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tests.checkpoints import write_checkpoint
from tests.test_documents import TEXTS
from tests.test_imports import ROOT

EXAMPLE = ROOT / "examples" / "python.py"
COUNTED = """
with open("runs", "a") as file:
    file.write("run\\n")
"""
BENCH = (
    "results = llx.bench({folder!r}, engines=['ort'], prompts=[8], generated=[4], repetitions=5, "
    "fidelity=False, roofline=False)\n"
)


def run_script(text, folder):
    """A plain script, as a user starts it."""
    (folder / "script.py").write_text(text)
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_without_a_main_guard_runs_once(tiny, tmp_path):
    text = COUNTED + "import llx\n" + BENCH.format(folder=str(tiny.folder))
    ended = run_script(text + "print(len(results[0].speed), results.exit_code)\n", tmp_path)
    assert (ended.stdout, ended.stderr) == ("2 0\n", "")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_thread_may_measure(tiny, tmp_path):
    text = (
        "import threading, llx\n"
        f"def work():\n    {BENCH.format(folder=str(tiny.folder))}    print(results.exit_code)\n"
        "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\n"
    )
    ended = run_script(text, tmp_path)
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_thread_may_chat(tiny, tmp_path):
    text = (
        COUNTED + "import threading, llx\n"
        "def work():\n"
        f"    print(len(list(llx.generate({str(tiny.folder)!r}, 'hi', chat=True, tokens=2))) > 0)\n"
        "work()\nthread = threading.Thread(target=work)\nthread.start()\nthread.join()\n"
    )
    ended = run_script(text, tmp_path)
    assert (ended.stdout, ended.stderr) == ("True\nTrue\n", "")
    assert (tmp_path / "runs").read_text() == "run\n"


def run_notebook(cells, folder):
    """The outputs of cells in Jupyter's own kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_measures_and_shows_its_results(tiny, tmp_path):
    outputs = run_notebook(
        [
            "import llx",
            BENCH.format(folder=str(tiny.folder)),
            "results",
            "results.to_frame()",
            f"text = list(llx.generate({str(tiny.folder)!r}, 'hi', chat=True, tokens=2))",
        ],
        tmp_path,
    )
    streams = [out for cell in outputs for out in cell if out.output_type == "stream"]
    assert streams == []
    (shown,) = outputs[2]
    assert "pp8" in shown.data["text/html"]
    assert "2 rows × 31 columns" in outputs[3][0].data["text/html"]
    # Bars were shown while it ran, and are gone.
    (bars,) = outputs[1]
    assert bars.output_type == "display_data"
    assert bars.data["text/html"] == ""


def small(text):
    """The example on a small checkpoint: nothing else of it changes."""
    text = text.replace('size="135m"', 'weights="tiny"')
    text = text.replace("prompts=[128], generated=[32]", "prompts=[16], generated=[8]")
    return re.sub(r"session\.step\(\[.*\]\)", "session.step([5, 6, 7])", text)


@pytest.mark.slow
def test_the_example_runs_on_a_small_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "tiny")
    text = EXAMPLE.read_text()
    assert small(text).count('weights="tiny"') == 2
    ended = run_script(small(text), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].endswith("fp32")
    assert (tmp_path / "site" / "index.html").is_file()
    assert "orin-nx-16 True" in ended.stdout


PYTHON = {
    name: "".join(found)
    for name, text in TEXTS.items()
    if name != "docs/program.md"  # which needs no llx: tests/test_program.py
    and (found := re.findall(r"```python\n(.*?)```", text, re.S))
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_the_python_of_a_page_runs_on_a_small_checkpoint(name, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    ended = run_script(small(PYTHON[name]), tmp_path)
    assert ended.returncode == 0, ended.stderr
    if name != "docs/python.md":
        return
    assert small(PYTHON[name]).count('weights="tiny"') == 2
    assert (tmp_path / "site" / "index.html").is_file()
    assert len(list((tmp_path / "artifacts" / "tiny-fp16" / "engines").iterdir())) == 1


def test_the_example_speaks_through_the_door_alone():
    tree = ast.parse(EXAMPLE.read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imported] == ["import llx"]
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "llx"
    }
    assert {"export", "generate", "bench", "compare", "report", "plan"} <= called
