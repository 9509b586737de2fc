"""Imports go one way, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(importlib.util.find_spec("llx").origin).resolve().parents[2]
FOLDERS = {
    "llx": ROOT / "src" / "llx",
    "llx.graphs": ROOT / "graphs",
    "llx.exporter": ROOT / "exporter",
    "llx.bench": ROOT / "bench",
    "llx.reports": ROOT / "reports",
}
# What each folder may import of the others. Only the command line sees all of them.
MAY_IMPORT = {
    "llx": {"llx", "llx.graphs"},
    "llx.graphs": {"llx", "llx.graphs"},
    "llx.exporter": {"llx", "llx.graphs", "llx.exporter"},
    "llx.bench": {"llx", "llx.graphs", "llx.bench"},
    "llx.reports": {"llx", "llx.reports"},
}
# The only modules, beside the exporter, that may need PyTorch.
WITH_TORCH = {
    *(f"llama/{name}.py" for name in ("ops", "model", "weights", "streamed", "quantized")),
    "sessions/torch.py",
    "sessions/torch_compile.py",
}
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "scipy", "numpy")


PLACES = [
    (folder, file)
    for folder, path in FOLDERS.items()
    for file in sorted(path.rglob("*.py"))
    if "cli" not in file.parts
]


def needs_no_torch(folder, file):
    return folder != "llx.exporter" and not any(str(file).endswith(name) for name in WITH_TORCH)


def imported(tree, top_level_only=False):
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def folder_of(module):
    longest = [name for name in FOLDERS if module == name or module.startswith(f"{name}.")]
    return max(longest, key=len, default=None)


@pytest.mark.parametrize(("folder", "file"), PLACES)
def test_a_folder_imports_only_what_lies_below_it(folder, file):
    tree = ast.parse(file.read_text())
    of_llx = {folder_of(name) for name in imported(tree)} - {None}
    assert of_llx <= MAY_IMPORT[folder]


@pytest.mark.parametrize("file", [file for folder, file in PLACES if needs_no_torch(folder, file)])
def test_the_edge_path_needs_no_pytorch(file):
    tree = ast.parse(file.read_text())
    assert not {name.split(".")[0] for name in imported(tree)} & {"torch", "gguf", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, atexit\n"
        "from llx.__main__ import main\n"
        f"sys.argv = ['llx', *{arguments!r}]\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print('HEAVY', [m for m in heavy if m in sys.modules]))\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "HEAVY []" in ended.stdout


def test_it_runs_as_a_module_too():
    ended = subprocess.run(
        [sys.executable, "-m", "llx", "--help"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "export" in ended.stdout
