"""An artifact that is handed on names no folder of who made it, and still finds its checkpoint."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest

from llx.artifact import open_artifact
from llx.corpus import evaluation_text
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused

USER = "mira-lindqvist"
CUT = ("--window", 40, "--windows", 2)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's folder with a checkpoint, of which there is something to warn, and a text."""
    monkeypatch.setenv("LOGNAME", USER)
    folder = tmp_path / USER / "of a customer" / "here"
    write_checkpoint(folder / "checkpoint")
    (folder / "checkpoint" / "pytorch_model.bin").write_bytes(b"")
    (folder / "checkpoint" / "b.safetensors").symlink_to(tmp_path / "of a customer too" / "gone")
    (folder / "text.txt").write_text(evaluation_text().text[:4000])
    return folder


def exported(llx, place, precision="fp16", name="artifact"):
    words = ["export", "--weights", place / "checkpoint", "--precision", precision]
    if precision == "int8":
        words += ["--calibration-text", place / "text.txt", "--calibration-windows", 2]
    ended = llx(*words, "--for", "genai", "-o", place / name)
    assert ended.code == 0, ended.stderr
    return place / name


def assert_names_nobody(artifact, tmp_path):
    assert getpass.getuser() == USER
    folders = (tmp_path.parent.name, "of a customer", str(Path.home()))
    words = [word.encode() for word in (*folders, USER)]
    found = {
        (path.relative_to(artifact).as_posix(), word)
        for path in artifact.rglob("*")
        if path.is_file()
        for word in words
        if word in path.read_bytes()
    }
    assert not found


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_file_of_an_artifact_holds_a_folder_of_who_made_it(llx, place, tmp_path, precision):
    artifact = exported(llx, place, precision)
    ended = llx("reference", artifact, "--text", place / "text.txt", *CUT)
    assert ended.code == 0, ended.stderr
    assert_names_nobody(artifact, tmp_path)
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["source"]["path"] == "../checkpoint"
    assert [file["path"] for file in manifest["source"]["files"]] == ["model.safetensors"]
    assert manifest["command"].startswith("llx export --weights '…/checkpoint' --precision")
    said = "…/b.safetensors is a link to …/gone, which is not there: it is not read"
    assert said in manifest["source"]["warnings"]


def test_neither_does_an_engine_of_it(llx, place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    artifact = exported(llx, place)
    small = ("--sm", 86, "--context", 64, "--max-prefill", 16)
    ended = llx("build", artifact, "--engine", "trt-rtx", *small)
    assert ended.code == 0, ended.stderr
    (manifest,) = artifact.glob("engines/*/manifest.json")
    assert json.loads(manifest.read_text())["command"].startswith("llx build '…/artifact' --engine")
    assert_names_nobody(artifact, tmp_path)


@pytest.mark.parametrize("copied", [False, True])
def test_what_is_moved_together_finds_itself_again(llx, place, tmp_path, copied):
    exported(llx, place)
    if copied:  # its files have new times, and hold what they held
        shutil.copytree(place, tmp_path / "there", copy_function=shutil.copyfile, symlinks=True)
        shutil.rmtree(place)
    else:
        place.rename(tmp_path / "there")
    artifact = tmp_path / "there" / "artifact"
    assert llx("reference", artifact, *CUT).stderr == ""
    checked = llx("check", artifact)
    assert checked.code == 0, checked.stderr
    assert "the checkpoint" in checked.stdout
    assert "own weights" not in checked.stdout


def test_what_lies_in_the_home_is_found_from_anywhere(llx, place, tmp_path, monkeypatch):
    monkeypatch.setattr("llx.manifest.noted_places", lambda key: [])
    monkeypatch.setenv("HOME", str(place))
    artifact = exported(llx, place)
    assert open_artifact(artifact).manifest.source.path == "~/checkpoint"
    artifact.rename(tmp_path / "elsewhere")
    assert llx("reference", tmp_path / "elsewhere", *CUT).code == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = llx("reference", tmp_path / "elsewhere", "--window", 30)
    assert_refused(ended, 3, f"the checkpoint {tmp_path}/checkpoint is not here")


def test_an_artifact_that_was_moved_alone_says_where_its_checkpoint_is_looked_for(
    llx, place, tmp_path, monkeypatch
):
    exported(llx, place).rename(tmp_path / "alone")
    assert llx("reference", "alone", *CUT).code == 0  # this user has it noted
    monkeypatch.setattr("llx.manifest.noted_places", lambda key: [])
    ended = llx("reference", "alone", "--window", 30)
    assert_refused(ended, 3, f"the checkpoint {tmp_path}/checkpoint is not here", "put it there")


def test_a_fresh_checkout_of_the_checkpoint_is_the_same_export(llx, place, tmp_path):
    artifact = exported(llx, place)
    before = (artifact / "manifest.json").read_bytes()
    other = tmp_path / "another checkout" / "checkpoint"
    shutil.copytree(place / "checkpoint", other, copy_function=shutil.copyfile, symlinks=True)
    words = ("--precision", "fp16", "--for", "genai", "-o", artifact)
    ended = llx("export", "--weights", other, *words)
    assert ended.code == 0
    assert "nothing to do" in ended.stdout
    assert (artifact / "manifest.json").read_bytes() == before
    shutil.rmtree(place / "checkpoint")  # and where the checkpoint lies now is noted
    assert "nothing to do" in llx("export", "--weights", other, *words).stdout
    assert llx("reference", artifact, *CUT).code == 0
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    ended = llx("export", "--weights", other, *words)
    assert_refused(ended, 2, "holds another export", "of another checkpoint")


def test_what_was_captured_of_a_checkpoint_serves_a_fresh_checkout_of_it(
    llx, place, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert llx("reference", exported(llx, place), *CUT).code == 0
    shutil.copytree(place / "checkpoint", tmp_path / "checkpoint", symlinks=True)
    monkeypatch.setattr("llx.api.reference.open_reference", lambda _: pytest.fail("captured anew"))
    assert llx("reference", exported(llx, tmp_path, name="other"), *CUT).code == 0
