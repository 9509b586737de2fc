"""Imports go one way, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(importlib.util.find_spec("llx").origin).resolve().parents[2]
FOLDERS = {
    "llx": ROOT / "src" / "llx",
    "llx.graphs": ROOT / "graphs",
    "llx.exporter": ROOT / "exporter",
    "llx.bench": ROOT / "bench",
    "llx.reports": ROOT / "reports",
}
# The house, from the ground up. A floor is a line; what stands on one imports from lower lines
# alone. A name is a module or a room (a folder with all that is in it): within a room modules
# import one another freely, in no circle.
FLOORS = """
llx: errors progress lazy scrub interrupts streams notebook conditions statistics probe scores
llx: template_process contradictions
llx: refused
llx: files gpu nearby processes precision devices
llx: noted
llx: typed intact places whole outputs
llx: arguments
llx: runtime jetpack llama tokenizer templates
llx: plans checks corpus
llx.graphs: contract
llx.graphs: semantic
llx.graphs: linear inspect settings
llx: tensorrt
llx: bundle
llx.graphs: dialects tensorrt_rules
llx.graphs: capacity trust
llx: manifest
llx: artifact
llx: engine
llx: result
llx: evaluation

llx.exporter: configs differences direct locate quantize rescaled graph vocabulary engines
llx.exporter: sources
llx.exporter: weights sizes
llx.exporter: load
llx.exporter: original quantization
llx.exporter: readback request readme genai
llx.exporter: export

llx.bench: session cuda text chat sampling
llx.bench: clock
llx.bench: machine
llx.bench: sessions
llx.bench: roofline
llx.bench: speed
llx.bench: generate fidelity
llx.bench: conversation
llx.bench: tasks edge worker
llx.bench: kept
llx.bench: run
llx.bench: against

llx.reports: plain units levels
llx.reports: notes terminal scores
llx.reports: console markdown measures
llx.reports: artifacts plans evaluations history emitters families
llx.reports: formats
llx.reports: compare
llx.reports: steps
llx.reports: html report
llx.reports: checks

llx: api
llx: cli
llx: __main__
"""
# What a user holds in her hands hands her on to what stands above it.
DOORS = {
    ("llx.artifact", "llx.api"),  # Artifact.session
    ("llx.bench", "llx.api"),  # the package is the function `llx.bench`, too
}
# Neighbours that know nothing of one another: only the door and the command line see all of them.
APART = [
    ("llx.exporter", "llx.bench"),
    ("llx.bench", "llx.reports"),
    ("llx.exporter", "llx.reports"),
]
# The only modules, beside the exporter, that may need PyTorch.
WITH_TORCH = {
    *(
        f"llama/{name}.py"
        for name in ("ops", "model", "weights", "streamed", "quantized", "teacher")
    ),
    "sessions/torch.py",
    "sessions/torch_compile.py",
}
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "scipy", "numpy")


PLACES = [
    (folder, file)
    for folder, path in FOLDERS.items()
    for file in sorted(path.rglob("*.py"))
    if "cli" not in file.parts
]


def needs_no_torch(folder, file):
    return folder != "llx.exporter" and not any(str(file).endswith(name) for name in WITH_TORCH)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


MODULES = {}
for folder, path in FOLDERS.items():
    for file in sorted(path.rglob("*.py")):
        name = ".".join([folder, *file.relative_to(path).with_suffix("").parts])
        MODULES.setdefault(name.removesuffix(".__init__"), file)
FLOOR_OF = {
    f"{folder}.{name}": floor
    for floor, line in enumerate(filter(None, FLOORS.splitlines()))
    for folder, names in [line.split(": ")]
    for name in names.split()
}


def imports_of(module):
    """Modules of ours that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = [name for name in names if name in MODULES]
            yield from inner or ([node.module] if node.module in MODULES else [])


def room_of(module):
    """The module or room of `FLOORS` that a module is, or stands in; itself where in none."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((prefix for prefix in prefixes if prefix in FLOOR_OF), module)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FOLDERS])
def test_every_module_stands_on_a_floor(module):
    assert room_of(module) in FLOOR_OF, "say in FLOORS where it stands"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "llx"])
def test_imports_run_downhill(module):
    here = room_of(module)
    for other in imports_of(module):
        there = room_of(other)
        if there in (here, "llx") or (module, there) in DOORS:
            continue
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{module} imports {other}, which stands above it"


def test_no_floor_is_empty_of_modules():
    """A room that was moved or renamed does not stay on the list."""
    assert set(FLOOR_OF) <= {room_of(module) for module in MODULES}


def test_modules_of_a_room_import_one_another_in_no_circle():
    graph = {name: {other for other in imports_of(name) if other != name} for name in MODULES}
    doors = {("llx.artifact", "llx.api.session"), *(("llx", name) for name in MODULES)}
    doors |= {(name, "llx") for name in MODULES} | {("llx.bench", "llx.api.bench")}
    rooms = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    sorter = TopologicalSorter(
        {
            name: {other for other in others if (name, other) not in doors and other not in rooms}
            for name, others in graph.items()
            if name not in rooms
        }
    )
    assert set(sorter.static_order()) >= set(graph) - rooms  # it raises where there is a circle


@pytest.mark.parametrize(("one", "other"), APART)
def test_the_exporter_the_harness_and_the_reports_know_nothing_of_one_another(one, other):
    for module in MODULES:
        for side, unknown in ((one, other), (other, one)):
            if module.startswith(f"{side}."):
                named = [name for name in imports_of(module) if name.startswith(unknown)]
                assert not named, f"{module} imports {named}"


def test_wheels_carry_every_folder():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == {name for name, file in MODULES.items() if file.name == "__init__.py"}


COMMANDS = sorted((FOLDERS["llx"] / "cli").glob("*.py"))


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.stem)
def test_a_command_parses_calls_and_prints(file):
    """A file of `cli/` is one command: it decides nothing, and knows nothing of the folders.

    Beside it, shapes that a user types are parsed in `arguments.py` and shown by `helped.py`, what
    was measured is kept by `printed.py` where it cannot be printed, and `talk.py` sits at the
    terminal of a conversation.
    """
    if file.stem in ("__init__", *BESIDE_COMMANDS):
        return
    tree = ast.parse(file.read_text())
    defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(defined) == 1
    (command,) = defined
    for node in ast.walk(command):
        assert not isinstance(node, (ast.While, ast.Lambda)), "a command decides nothing"
    module = f"llx.cli.{file.stem}"
    beside = ("llx.cli", *(f"llx.cli.{name}" for name in BESIDE_COMMANDS))
    for other in imports_of(module):
        assert room_of(other) != "llx.cli" or other in beside, other
        assert not other.startswith("llx.exporter"), other
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(command))
    assert statements <= MOST_STATEMENTS, f"{statements} statements"


MOST_STATEMENTS = 32
BESIDE_COMMANDS = ("arguments", "helped", "printed", "talk")


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
