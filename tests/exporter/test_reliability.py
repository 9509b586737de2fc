"""Exports that are killed, that meet one another, or that run out of disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from llx.artifact import open_artifact
from llx.errors import BadInput, LlxError
from llx.exporter import weights
from llx.exporter.export import export
from llx.exporter.request import ExportRequest
from llx.precision import PRECISIONS
from tests.checkpoints import write_checkpoint


@pytest.fixture
def request_(tmp_path) -> ExportRequest:
    return ExportRequest(
        weights=write_checkpoint(tmp_path / "checkpoint"),
        folder=tmp_path / "out" / "tiny",
        precision=PRECISIONS["fp32"],
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_export_left_is_named_and_removed(request_):
    left = request_.folder.with_name(".tiny.partial")
    (left / "deeper").mkdir(parents=True)
    (left / "weights.safetensors").write_bytes(b"half")
    told = []
    artifact, made = export(request_, tell=told.append)
    assert made
    assert artifact.damaged() == []
    assert len(told) == 1
    assert str(left) in told[0]
    assert names_in(request_.folder.parent) == ["tiny"]


def test_what_stood_there_is_back_after_a_kill_between_two_renames(request_, monkeypatch):
    export(request_)
    request_.folder.rename(request_.folder.with_name(".tiny.old"))

    def fail(*_):
        raise AssertionError("it was written again")

    monkeypatch.setattr(weights, "write_weights", fail)
    _, made = export(request_)
    assert not made
    assert open_artifact(request_.folder).damaged() == []
    assert names_in(request_.folder.parent) == ["tiny"]


def test_two_exports_into_one_folder_do_not_mix(request_):
    partial = request_.folder.with_name(".tiny.partial")
    partial.mkdir(parents=True)
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(BadInput, match="another export is writing"):
        export(request_)
    os.close(handle)
    assert export(request_)[1]


def test_a_disk_without_room_is_refused_before_anything_is_written(llx, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "checkpoint")
    usage = namedtuple("usage", "total used free")(10**6, 10**6, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    ended = llx("export", "--weights", "checkpoint", "-o", "out")
    assert ended.code == 3
    assert "0.0 GB free: free space, or choose another -o" in ended.stderr
    assert names_in(tmp_path) == ["checkpoint"]


def test_a_disk_that_fills_up_leaves_nothing(llx, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "checkpoint")

    def fill(path, *_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(weights, "write_weights", fill)
    ended = llx("export", "--weights", "checkpoint", "-o", "out")
    assert ended.code == 3
    assert "the disk is full: free space, or choose another -o" in ended.stderr
    assert names_in(tmp_path) == ["checkpoint"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_killed_at_any_moment_is_whole_or_not_there(tmp_path, precision):
    write_checkpoint(tmp_path / "checkpoint")
    command = [sys.executable, "-m", "llx", "export", "--weights", "checkpoint", "-o", "out"]
    command += ["--precision", precision]
    partial = tmp_path / ".out.partial"

    def begun(process):
        while process.poll() is None and not any(tmp_path.glob(".out.partial/*")):
            time.sleep(0.001)

    left_behind = 0
    for i in range(8):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            begun(process)
            time.sleep(0.008 * i)
            process.send_signal(signal.SIGKILL)
        left_behind += partial.exists()
        try:
            artifact = open_artifact(tmp_path / "out")
        except LlxError:
            continue
        assert artifact.damaged() == []
    assert left_behind, "no kill met an export that was writing"
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert open_artifact(tmp_path / "out").damaged() == []
    assert names_in(tmp_path) == ["artifacts", "checkpoint", "out"]  # artifacts/.latest names out
