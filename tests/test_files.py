"""Files and folders that appear whole or not at all, wherever they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from llx.errors import BadInput
from llx.files import (
    beside,
    locked_folder,
    read_sealed,
    remove,
    require_writable,
    write_sealed,
    write_whole,
)
from llx.outputs import require_output, write_out
from llx.refused import refused
from llx.whole import clear_leftovers, require_replaceable, whole_folder


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write_artifact(folder, text="new", tell=lambda _: None):
    with whole_folder(folder, tell) as new:
        (new / "file").write_text(text)


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_link_to_nothing_makes_what_it_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755, 0o400])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_whole(path, b"new")
    assert mode_of(path) == mode
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_is_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file") == 0o666 & ~umask


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_what_is_no_file_is_never_replaced(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(BadInput, match="is not replaced"):
        write_whole(tmp_path / "it", b"new")
    assert names_in(tmp_path) == ["it"]


def test_a_device_stays_a_device():
    with pytest.raises(BadInput, match="is not replaced"):
        write_whole(Path("/dev/null"), b"new")
    write_out(Path("/dev/null"), b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_results_flow_into_a_pipe_and_onto_standard_output(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="nobody reads"):
        write_out(tmp_path / "pipe", b"new")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    while reader.is_alive() and not read:
        try:
            write_out(tmp_path / "pipe", b"new")
        except BadInput:  # it has not opened it yet
            continue
        reader.join()
    assert read == [b"new"]
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        write_out(Path(name), b"said")
    assert capfd.readouterr().out == "said" * 3


def test_where_results_cannot_go_is_said_before_the_work(tmp_path):
    assert require_output(tmp_path / "new.json") == tmp_path
    assert require_output(Path("/dev/stdout")) == require_output(Path("/dev/null")) == Path()
    for folder in (tmp_path, Path(), Path("/")):
        with pytest.raises(BadInput, match="is a folder"):
            require_output(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("failing", ["open", "fsync", "replace"])
def test_an_error_names_the_file_that_was_meant_and_no_hidden_one(
    tmp_path, monkeypatch, number, failing
):
    def fail(*given, **_):
        names = [name for name in given[:2] if isinstance(name, Path)]
        raise OSError(number, "no", *([str(names[0])] if names else []))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError) as failed:  # noqa: PT011  # its words are looked at
        write_whole(tmp_path / "page.html", b"new")
    said = str(refused(failed.value))
    assert said.startswith(f"{tmp_path / 'page.html'}: ")
    assert "partial" not in said


UNWRITABLE = {
    "no folder": lambda folder: folder / "none" / "p.html",
    "a file above": lambda folder: _file(folder / "file") / "p.html",
    "a folder": lambda folder: _made(folder / "p.html"),
    "a pipe": lambda folder: _pipe(folder / "p.html"),
    "a kernel's": lambda folder: Path("/proc/p.html"),
    "a long name": lambda folder: folder / f"{'p' * 300}.html",
}


def _file(path):
    path.write_bytes(b"")
    return path


def _made(path):
    path.mkdir()
    return path


def _pipe(path):
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_what_cannot_be_written_is_known_without_writing_it(tmp_path, kind):
    path = UNWRITABLE[kind](tmp_path)
    before = names_in(tmp_path)
    for one in (require_writable, lambda path: write_whole(path, b"new")):
        with pytest.raises((BadInput, OSError)):
            one(path)
    assert names_in(tmp_path) == before


def test_to_try_a_file_changes_nothing(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        require_writable(tmp_path / name)
    assert names_in(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_writer_removes_what_a_killed_one_left_and_nothing_of_a_live_one(tmp_path):
    dead, live = tmp_path / ".file.partial-1234", tmp_path / ".file.partial-abcd"
    others = tmp_path / ".file2.partial-1"
    for path in (dead, live, others):
        path.write_bytes(b"half")
    handle = os.open(live, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write_whole(tmp_path / "file", b"new")
    assert names_in(tmp_path) == sorted([live.name, others.name, "file"])
    os.close(handle)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"new")
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_name_of_any_length_is_written(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"new")
    assert names_in(tmp_path) == ["n" * 255]


def test_of_a_sealed_file_no_damage_passes(tmp_path):
    path = tmp_path / "sealed"
    assert read_sealed(path) is None
    write_sealed(path, b"words")
    whole = path.read_bytes()
    assert read_sealed(path) == b"words"
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        assert read_sealed(path) is None
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_sealed(path) is None


def test_a_folder_that_a_link_names_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    write_artifact(tmp_path / "there" / "it", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "it")
    write_artifact(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "it" / "file").read_text() == "new"
    assert names_in(tmp_path / "there") == ["it"]
    assert names_in(tmp_path) == ["link", "there"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_interrupt_between_two_renames_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, exchanges
):
    write_artifact(tmp_path / "it", "old")
    if not exchanges:
        monkeypatch.setattr("llx.whole._exchange", lambda *_: False)
    rename, left = os.rename, 0

    def interrupted(*names):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        rename(*names)

    monkeypatch.setattr(os, "rename", interrupted)
    for left in (1, 2):  # noqa: B007  # counted down within
        try:
            write_artifact(tmp_path / "it")
        except KeyboardInterrupt:
            assert (tmp_path / "it" / "file").read_text() == "old"
        assert names_in(tmp_path) == ["it"]


def test_what_a_kill_between_two_renames_moved_aside_is_put_back(tmp_path):
    for old in (tmp_path / ".it.partial" / "old", tmp_path / ".it.old"):
        old.mkdir(parents=True)
        (old / "file").write_text("old")
        clear_leftovers(tmp_path / "it", lambda _: None)
        assert (tmp_path / "it" / "file").read_text() == "old"
        assert names_in(tmp_path) == ["it"]
        remove(tmp_path / "it")


def test_leftovers_that_cannot_be_deleted_at_once_are_opened_up(tmp_path):
    left = tmp_path / ".it.partial" / "old" / "deeper"
    left.mkdir(parents=True)
    (left / "file").write_text("old")
    (tmp_path / "it").mkdir()
    left.chmod(0o500)
    left.parent.chmod(0o500)
    told = []
    clear_leftovers(tmp_path / "it", told.append)
    assert names_in(tmp_path) == ["it"]
    assert str(tmp_path / ".it.partial") in told[0]


def test_nothing_of_a_run_at_work_is_removed(tmp_path):
    with whole_folder(tmp_path / "it", lambda _: None) as new:
        (new / "file").write_text("half")
        clear_leftovers(tmp_path / "it", lambda _: None)
        assert (new / "file").read_text() == "half"
        with pytest.raises(BadInput, match="another export is writing"):
            write_artifact(tmp_path / "it", "other")
    assert (tmp_path / "it" / "file").read_text() == "half"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "./", "../.."])
def test_the_folder_that_one_stands_in_is_not_replaced(name):
    with pytest.raises(BadInput, match="the folder that you are in, or one above"):
        require_replaceable(Path(name))


def test_a_file_is_no_folder_to_replace(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(BadInput, match="is a file"):
        require_replaceable(tmp_path / "file")
    with pytest.raises(BadInput, match="is a file"):
        write_artifact(tmp_path / "file" / "deeper")
    with pytest.raises(BadInput, match="in the way"), locked_folder(tmp_path / "file", ""):
        pass


def test_names_beside_fit_any_file_system():
    assert beside(Path("a/b"), "partial") == Path("a/.b.partial")
    assert len(os.fsencode(beside(Path("é" * 127), "calibration").name)) <= 255
