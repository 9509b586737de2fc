"""`import llx`: its names, their documentation, and that it is light."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest
import typer

import llx
from llx.cli import app
from tests.test_imports import MODULES

FUNCTIONS = [name for name in llx.__all__ if inspect.isfunction(getattr(llx, name))]
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "scipy", "rich", "typer", "msgspec", "jinja2")
# Options that are no words of Python's: what is typed in a terminal, and formats of files.
OF_TERMINALS = {"output", "help", "words", "folder", "results", "measures"}
RENAMED = {
    "check": {"engine": "engines"},
    "reference": {"text": "texts"},
    "bench": {
        "engine": "engines",
        "text": "texts",
        "request_lengths": "requests",
        "most_repetitions": "max_repetitions",
    },
    "generate": {"most": "tokens"},
    "chat": {"most": "tokens"},
    "report": {"gate": "gates", "no_baseline": "baseline"},
    "compare": {"gate": "gates", "files": "results"},
}
# `llx build` for another machine is a bundle or a build over SSH: `llx.api.elsewhere`.
ELSEWHERE = {
    *("device", "jetpack", "remote", "python", "prompts", "generated", "request_lengths"),
    "repetitions",
}


def test_the_public_names_are_these():
    assert set(llx.__all__) == {
        *("bench", "build", "chat", "check", "collect", "compare", "evaluate", "export"),
        *("generate", "open_artifact"),
        *("plan", "reference", "report", "silent"),
        *(
            "Artifact",
            "Compared",
            "Conversation",
            "Engine",
            "Evaluation",
            "OpenSession",
            "Plans",
            "Report",
        ),
        *("Result", "Results"),
        *("BadInput", "GateFailed", "Interrupted", "Lacking", "LlxError"),
    }


@pytest.mark.parametrize("name", sorted(llx.__all__))
def test_every_public_name_is_there_and_documented(name):
    assert name in dir(llx)
    assert len(inspect.getdoc(getattr(llx, name))) > 20


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = llx.nothing


@pytest.mark.parametrize("name", ["bench", *FUNCTIONS])
def test_every_argument_of_a_public_function_is_described(name):
    function = importlib.import_module("llx.api.bench").bench if name == "bench" else None
    function = function or getattr(llx, name)
    if not function.__module__.startswith("llx.api"):
        return
    said = inspect.getdoc(function)
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in said, argument
    assert "Raises:" in said


@pytest.mark.parametrize("module", ["api.session.OpenSession", "api.results.Results"])
def test_every_public_method_is_documented(module):
    where, _, name = module.rpartition(".")
    kind = getattr(importlib.import_module(f"llx.{where}"), name)
    for method, value in vars(kind).items():
        if not method.startswith("_"):
            assert inspect.getdoc(value), method


COMMANDS = typer.main.get_command(app).commands
DOORS = {"eval": "evaluate"} | {
    name: name for name in COMMANDS if name in llx.__all__ and name != "eval"
}


@pytest.mark.parametrize(("command", "function"), DOORS.items())
def test_python_speaks_the_words_of_the_command_line(command, function):
    """Every option is an argument of the same name, and has the same default."""
    door = importlib.import_module(f"llx.api.{function}")
    given = inspect.signature(getattr(door, function)).parameters
    renamed = RENAMED.get(function, {})
    for option in COMMANDS[command].params:
        name = renamed.get(option.name, option.name)
        if name in OF_TERMINALS | (ELSEWHERE if function == "build" else set()):
            continue
        assert name in given, f"--{name} is no argument of llx.{function}"
        plain = isinstance(option.default, (bool, int, float)) and not callable(option.default)
        if plain and name not in ("baseline", "window", "windows"):
            assert given[name].default == option.default, name


def test_importing_it_is_light():
    code = (
        f"import sys; before = set(sys.modules); import llx; heavy = {HEAVY!r}\n"
        "print([name for name in heavy if name in sys.modules],\n"
        "      [name for name in sys.modules if name.startswith('llx.')])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["[]", "['llx.lazy']"]


def handing_on():
    """Packages that hand names on, and their file."""
    for name, file in MODULES.items():
        if file.name == "__init__.py" and "hand_on" in file.read_text():
            yield name


@pytest.mark.parametrize("package", list(handing_on()))
def test_what_a_package_hands_on_is_what_type_checkers_see(package):
    """The names stand twice, for Python and for type checkers: they are the same, and exist."""
    seen = {}
    for node in ast.walk(ast.parse(MODULES[package].read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for one in node.body:
                seen |= {alias.asname: one.module for alias in one.names}
    module = importlib.import_module(package)
    if package == "llx":
        # The package of that name is the function: both say that it is called.
        assert callable(module.bench)
    assert sorted(seen) == module.__all__
    for name, place in seen.items():
        if (package, name) != ("llx", "bench"):
            assert getattr(module, name) is getattr(importlib.import_module(place), name)


def test_the_harness_is_called_as_the_function_of_its_name(tiny):
    import llx.bench.run

    with pytest.raises(llx.BadInput, match="nothing to measure"):
        llx.bench(tiny, prompts=[], generated=[])
    assert llx.bench.run is importlib.import_module("llx.bench.run")
