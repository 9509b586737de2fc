"""Files that appear whole or not at all, and names that stay in their folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llx.errors import BadInput, Lacking, utf8

CHUNK_BYTES = 8 << 20
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer: what stands in a clone for a file that was not fetched.

    Its first line is the specification's: docs/spec.md of github.com/git-lfs/git-lfs.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def lfs_pointer(path: Path) -> BadInput:
    """The error for a file that is a Git LFS pointer."""
    return BadInput(
        f"{path} is a Git LFS pointer, not the file that it stands for",
        "fetch it with `git lfs pull` in its folder",
    )


def is_plain_name(name: str) -> bool:
    """Whether a name names a file of its folder and nothing outside it."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0:")


def require_unicode(path: Path) -> None:
    """Raise `BadInput` for a path that is not Unicode: neither JSON nor an engine takes it."""
    data = os.fsencode(path)
    if not any("\ud800" <= character <= "\udfff" for character in str(path)):
        return
    try:
        data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"the name {utf8(str(path))} is not UTF-8", "rename it") from None
    raise BadInput(
        f"the name {utf8(str(path))} is not ASCII, and this locale has nothing else",
        "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
    )


def state_folder() -> Path:
    """The user's folder for what a program remembers: XDG Base Directory Specification 0.8.

    Raises `Lacking` where the user has no home. It need not be there, nor be one to write to: what
    is remembered there is never worth more than what it is about.
    """
    return _of_user("XDG_STATE_HOME", ".local/state")


def cache_folder() -> Path:
    """The user's folder for what a program can make again: as `state_folder`, and it raises so."""
    return _of_user("XDG_CACHE_HOME", ".cache")


def _of_user(variable: str, usual: str) -> Path:
    """A user's folder of ours: a variable's, which must be absolute, or one in the home."""
    named = Path(os.environ.get(variable) or ".")
    if named.is_absolute():
        return named / "llx"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the passwd file
        raise Lacking("this user has no home folder", f"set HOME, or {variable}") from None
    return home.absolute() / usual / "llx"


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, tell: Callable[[str], None], work: str = "export") -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place when all went well.

    What stood there before is removed last, and is back where it was if anything fails, or if the
    caller removes what it was given. What a killed run left is removed, and `tell` is told. Raises
    `BadInput` where another run, called `work`, is writing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    with locked_folder(partial, f"another {work} is writing {folder}"):
        if any(partial.iterdir()):
            tell(f"removed {partial}, which a killed {work} had left")
            _empty(partial)
        if old.exists():  # killed between the two renames below, or before the last removal
            if folder.exists():
                shutil.rmtree(old)
            else:
                old.replace(folder)
        try:
            yield partial
            if not partial.exists():
                return
            if folder.exists():
                folder.replace(old)
            try:
                partial.replace(folder)
            except OSError:
                if old.exists():
                    old.replace(folder)
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists():
                old.chmod(0o700)  # a read-only artifact was replaced
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path, taken: str) -> Iterator[None]:
    """Make a folder, and hold it for this process alone: a killed process lets go of it.

    Raises `BadInput`, saying `taken`, where another process holds it.
    """
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BadInput(taken, "wait for it, or choose another folder") from None
        # Between making and locking it, another run may have finished with it.
        if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise `Lacking` where the disk of `folder`, which need not exist yet, has not enough room."""
    here = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free_bytes = shutil.disk_usage(here).free
    if free_bytes < needed_bytes:
        raise Lacking(
            f"{folder} needs {needed_bytes / 1e9:.1f} GB and its disk has "
            f"{free_bytes / 1e9:.1f} GB free",
            "free space, or choose another -o",
        )
