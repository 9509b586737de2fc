"""`llx build` as a user types it, on a machine with no GPU."""

from __future__ import annotations

import pytest

from llx.artifact import open_artifact
from llx.engine import PLAN, engines_of
from tests.cli.test_bad_input import assert_refused
from tests.cli.test_commands import fits_80_columns
from tests.conftest import export_tiny

SMALL = ("--context", 64, "--max-prefill", 16)


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return export_tiny(tmp_path, "fp16")


def test_two_builds_for_one_chip_are_one(llx, artifact):
    first = llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", 86, *SMALL)
    assert (first.code, first.stderr) == (0, "")
    for part in ("sm86", "× its weights", "built in", "64 positions", "built, not run"):
        assert part in first.stdout
    again = llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", 86, *SMALL)
    assert (again.code, again.stderr) == (0, "")
    assert "is there already: nothing to do" in again.stdout
    assert len(engines_of(open_artifact(artifact.folder))) == 1


def test_a_list_of_chips_is_an_engine_for_each_and_none_is_one_for_all(llx, artifact):
    assert llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", "86,120", *SMALL).code == 0
    assert llx("build", artifact.folder, "--engine", "trt-rtx", *SMALL).code == 0
    found = engines_of(open_artifact(artifact.folder))
    assert {engine.manifest.key.sm for engine in found} == {86, 120, None}


def test_overwrite_builds_again(llx, artifact):
    words = ("build", artifact.folder, "--engine", "trt-rtx", "--sm", 86, *SMALL)
    llx(*words)
    assert "built in" in llx(*words, "--overwrite").stdout


REFUSED = {
    "TensorRT without a GPU": (("--engine", "trt"), 3, ("tensorrt", "--engine trt-rtx --sm 86")),
    "an engine that builds nothing": (("--engine", "ort"), 2, ("ort", "trt or trt-rtx")),
    "a chip for TensorRT": (("--engine", "trt", "--sm", 86), 2, ("takes no --sm",)),
    "a chip that is no number": (("--engine", "trt-rtx", "--sm", "orin"), 2, ("--sm 'orin'",)),
    "a Jetson's chip": (("--engine", "trt-rtx", "--sm", 87), 2, ("SM 87", "75, 80, 86")),
    "an unknown graph": (("--engine", "trt-rtx", "--dialect", "foo"), 2, ("foo", "standard")),
    "timings for TensorRT-RTX": (
        ("--engine", "trt-rtx", "--timing-cache", "x"),
        2,
        ("leave --timing-cache out",),
    ),
    "lengths for nowhere": (
        ("--engine", "trt-rtx", "-p", 12),
        2,
        ("-p is of a build for another",),
    ),
    "no chip": (("--engine", "trt-rtx", "--sm", ""), 2, ("--sm ''", "86,89")),
    "a Jetson with TensorRT-RTX": (
        ("--engine", "trt-rtx", "--device", "orin-agx-64"),
        2,
        ("a JetPack brings TensorRT",),
    ),
    # Heads of 10 in fp16: TensorRT-RTX prints a line of its own beside what its logger is told.
    "what TensorRT finds no way for": (
        ("--engine", "trt-rtx", "--sm", 86, *SMALL, "--profiles", 2),
        2,
        ("cannot build standard.onnx", "Attention", "try --profiles 1"),
    ),
    "a context over the capacity": (
        ("--engine", "trt-rtx", "--sm", 86, "--context", 97),
        2,
        ("--context 97", "1…96"),
    ),
}


@pytest.mark.parametrize(("words", "code", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_built_is_one_line(llx, artifact, words, code, parts):
    assert_refused(llx("build", artifact.folder, *words), code, *parts)
    assert engines_of(open_artifact(artifact.folder)) == []


def test_inspect_lists_the_engines(llx, artifact):
    llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", 86, *SMALL)
    ended = llx("inspect", artifact.folder.name)
    assert fits_80_columns(ended.stdout)
    for part in ("engines, newest first", "sm86", "standard", "1 × 16, 64"):
        assert part in ended.stdout


def test_check_finds_a_changed_byte_of_an_engine(llx, artifact):
    llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", 86, *SMALL)
    assert "engines: 1 are what" in llx("check", artifact.folder).stdout
    (engine,) = engines_of(open_artifact(artifact.folder))
    plan = engine.folder / PLAN
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    ended = llx("check", artifact.folder)
    assert ended.code == 1
    assert "is not what was built: build it again" in ended.stderr


def test_a_list_with_one_unknown_chip_builds_none(llx, artifact):
    assert_refused(llx("build", artifact.folder, "--engine", "trt-rtx", "--sm", "86,88"), 2, "88")
    assert engines_of(open_artifact(artifact.folder)) == []
