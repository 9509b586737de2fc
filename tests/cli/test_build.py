"""`llx build` as a user types it, on a machine with no GPU."""

from __future__ import annotations

import pytest

from llx.artifact import open_artifact
from llx.engine import engines_of
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
