"""Whatever a function is given, what it says of it is a user's error, and names the argument."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

import llx
from llx.api import bench as measuring
from llx.arguments import fits, in_words, signature_of
from tests.checkpoints import write_checkpoint
from tests.reports.made import RESULT

# What an argument may be given, in whose place nothing of the kind belongs.
VALUES = {
    "None": None,
    "1": 1,
    "-1": -1,
    "0.5": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "True": True,
    "a text": "x",
    "no text": "",
    "bytes": b"x",
    "a list": [],
    "a list of None": [None],
    "a list of lists": [[1, 2]],
    "a tuple": (1, 2, 3),
    "a dictionary": {"x": 1},
    "a set": {1},
    "an object": object(),
    "a class": int,
    "a path": Path("x"),
    "NaN of numpy": np.float32("nan"),
    "numpy's 1": np.int64(1),
    "an array": np.zeros((2, 2)),
}
# A call of each that is done at once, by what is given to it.
CALLS = {
    "bench": lambda on: {"artifact": on, "fidelity": False, "roofline": False},
    "build": lambda on: {"artifact": on},
    "check": lambda on: {"artifact": on},
    "collect": lambda on: {"bundle": "bundle", "artifact": on},
    "chat": lambda on: {"artifact": on, "tokens": 1},
    "compare": lambda on: {"results": RESULT, "baseline": RESULT},
    "evaluate": lambda on: {"artifact": on, "tasks": "none_such"},
    "export": lambda on: {"weights": "checkpoint", "output": "there"},
    "generate": lambda on: {"artifact": on, "prompt": "a", "tokens": 1},
    "open_artifact": lambda on: {"folder": on},
    "plan": lambda on: {"size": "135m"},
    "reference": lambda on: {"artifact": on, "window": 32, "windows": 1},
    "report": lambda on: {"results": RESULT, "output": "site"},
}
FUNCTIONS = {name: getattr(llx, name) for name in CALLS}
CALLBACKS = ("progress", "tell")
# A class is a function, too: what it makes of a call is its own affair.
CASES = [
    (name, argument, kind)
    for name, function in FUNCTIONS.items()
    for argument in inspect.signature(function).parameters
    for kind in VALUES
    if not (kind == "a class" and argument in CALLBACKS)
]


def done_at_once(monkeypatch):
    """All that would take long is left out: what is checked stands before it."""

    def nothing(*_: object, **__: object) -> list[object]:
        return []

    for name in ("run_all", "_run_in_turns", "jobs_for"):
        monkeypatch.setattr(measuring, name, nothing)
    monkeypatch.setattr("llx.api.export.export_whole", lambda *_: (None, False))
    monkeypatch.setattr("llx.api.report.write_page", lambda *_, **__: Path("page"))
    monkeypatch.setattr("llx.api.check._check_fidelity", lambda *_: iter(()))
    for name in ("generate", "chat"):
        monkeypatch.setattr(f"llx.api.{name}.default_engine", lambda: llx_engine("torch"))
    tasks = SimpleNamespace(run_tasks=nothing)
    monkeypatch.setitem(sys.modules, "llx.bench.tasks.run", tasks)
    monkeypatch.setattr("llx.exporter.locate._from_hub", lambda *_: Path("hub"))


def llx_engine(name):
    from llx.bench.sessions import engine_named

    return engine_named(name)


def test_every_public_function_is_held_to_it():
    of_llx = {n for n in llx.__all__ if inspect.isfunction(getattr(llx, n)) or n == "bench"}
    assert of_llx == {*CALLS, "silent"}


SECONDS = ("chat", "generate", "reference")  # of which many calls run the model


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SECONDS)) for name in CALLS],
)
def test_no_argument_of_any_kind_ends_in_an_error_from_inside(
    name, judged, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "checkpoint")
    own = llx.open_artifact(shutil.copytree(judged.folder, tmp_path / "own"))
    done_at_once(monkeypatch)
    from_inside = []
    for _, argument, kind in (case for case in CASES if case[0] == name):
        call = {**CALLS[name](own), argument: VALUES[kind]}
        try:
            answer = FUNCTIONS[name](**call)
            if name == "generate":
                list(answer)
            if name == "chat":
                with answer:
                    list(answer.ask("a"))
        except llx.LlxError:
            continue
        except Exception as error:
            from_inside.append(f"{argument}={kind}: {type(error).__name__}: {error}")
    assert from_inside == []


@pytest.mark.parametrize("name", CALLS)
def test_an_object_is_refused_by_the_name_of_the_argument(name, judged):
    for argument in inspect.signature(FUNCTIONS[name]).parameters:
        call = {**CALLS[name](judged), argument: object()}
        with pytest.raises(llx.BadInput, match=rf"{name}: {argument} is <object object"):
            FUNCTIONS[name](**call)


def test_methods_are_held_to_it_as_well(judged, tmp_path):
    session = judged.session("torch")
    for value in VALUES.values():
        with contextlib.suppress(llx.LlxError):
            session.step(value)
        with contextlib.suppress(llx.LlxError):
            session.step([1], every=value)
        for argument in ("engine", "rows", "trust_engine"):
            with contextlib.suppress(llx.LlxError):
                judged.session(**{"engine": "torch", argument: value}).close()
        with contextlib.suppress(llx.LlxError):
            llx.Results.read(value)
        with contextlib.suppress(llx.LlxError):
            llx.Results([RESULT]).write(tmp_path / "x" if isinstance(value, str | Path) else value)
    session.close()


@pytest.mark.parametrize(
    ("hint", "yes", "no"),
    [
        (int, (0, np.int8(3)), (True, 0.0, "1", None)),
        (float, (0, 0.5, np.float32(1)), (True, "1")),
        (bool, (True, np.bool_(False)), (0, "True", None)),
        (str | Path | None, ("x", Path("x"), None), (b"x", 1)),
        (Sequence[int], ([], (1, 2), range(3), np.arange(3)), ("12", {1: 2}, [None], (1.5,), 1)),
        (Sequence[tuple[int, int]], ([(1, 2)], [[1, 2]]), ([1, 2], [(1, 2, 3)], [("a", 1)])),
        (Literal["a", "b"], ("a",), ("c", None)),
    ],
)
def test_what_fits_a_type(hint, yes, no):
    assert all(fits(value, hint) for value in yes)
    assert not any(fits(value, hint) for value in no)
    assert in_words(hint)


def test_checked_functions_keep_their_signature():
    for function in FUNCTIONS.values():
        assert all(p.annotation != p.empty for p in signature_of(function).parameters.values())
