"""Files that appear whole or not at all, and stay so after a power cut; names of their folder.

What is written goes into a file beside its target, is brought to the disk, and takes the target's
name in one step. What is being written is locked, so that the next writer tells what a killed one
left, and removes it: `.NAME.partial-…` beside a file, `.NAME.partial` beside a folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llx.errors import BadInput, Lacking, utf8

CHUNK_BYTES = 8 << 20
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What a file system says that brings nothing to the disk by itself: network shares, FUSE.
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
LONGEST_NAME = 200  # bytes; file systems end at 255, and what is written beside adds to it
SEAL_BYTES = 32


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


def real_path(path: Path) -> Path:
    """A path with every link in it followed; what ends in a circle of links stays as it is."""
    return Path(os.path.realpath(path))


def beside(path: Path, what: str) -> Path:
    """The hidden path beside a file or folder for what belongs to it: `.NAME.WHAT`."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{what}")


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old one or the new one, and so after a power cut.

    What a link names is written, and a file's mode is kept. What a killed writer left is removed.
    Raises `BadInput` for a folder, a device or a pipe: none is ever replaced.
    """
    with _named(path):
        target = real_path(path)
        standing = _standing(path, target)
        mode = stat.S_IMODE(standing.st_mode) & 0o777 if standing else 0o666
        _remove_left(target)
        partial, handle = _new_partial(target, mode)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                if standing:
                    _keep(handle, standing, mode)
                _to_disk(handle)
                os.replace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync(target.parent)


def require_writable(path: Path) -> None:
    """Raise what `write_whole` would, before the work whose result it is to write. Tries it."""
    with _named(path):
        target = real_path(path)
        _standing(path, target)
        partial, handle = _new_partial(target, 0o600)
        partial.unlink()
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the system refuses within is of the file that a user knows, not of one beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = os.fspath(path), None
        raise


def _standing(path: Path, target: Path) -> os.stat_result | None:
    """The regular file that is to be replaced, if there is any."""
    try:
        standing = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise BadInput(
                f"{path} cannot be written: {target.parent} is no folder",
                "make that folder, or name another file",
            ) from None
        return None
    if stat.S_ISREG(standing.st_mode):
        return standing
    what = "a folder" if stat.S_ISDIR(standing.st_mode) else "no regular file"
    raise BadInput(f"{path} is {what}, and is not replaced", "name another file")


def _new_partial(target: Path, mode: int) -> tuple[Path, int]:
    """A new file beside a target, which this process holds."""
    while True:
        partial = beside(target, f"partial-{secrets.token_hex(4)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        if _hold(handle) is not False and _is_at(handle, partial):
            return partial, handle
        os.close(handle)  # another writer took it for what a killed one had left


def _keep(handle: int, standing: os.stat_result, mode: int) -> None:
    """Give a new file the owner and mode of the one that it replaces, where that may be done."""
    new = os.fstat(handle)
    with contextlib.suppress(OSError):
        if (new.st_uid, new.st_gid) != (standing.st_uid, standing.st_gid):
            os.fchown(handle, standing.st_uid, standing.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(handle, mode)


def _remove_left(target: Path) -> None:
    """Remove what killed writers of a file have left: what nobody holds."""
    begins = beside(target, "partial-").name
    with contextlib.suppress(OSError):
        left = [name for name in os.listdir(target.parent) if name.startswith(begins)]
        for path in (target.with_name(name) for name in left):
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _hold(handle) and _is_at(handle, path):
                        path.unlink()
                finally:
                    os.close(handle)


def _hold(handle: int) -> bool | None:
    """Hold an open file or folder for this process; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def write_sealed(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole, behind the hash of its bytes: `read_sealed` finds any damage to it."""
    write_whole(path, hashlib.sha256(data).digest() + bytes(data))


def read_sealed(path: Path) -> bytes | None:
    """What was sealed in a file; None where there is none, or it was cut short or damaged."""
    try:
        seal, data = (whole := path.read_bytes())[:SEAL_BYTES], whole[SEAL_BYTES:]
    except OSError:
        return None
    return data if hashlib.sha256(data).digest() == seal else None


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk, where its file system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read
        return
    try:
        _to_disk(handle)
    finally:
        os.close(handle)


def _to_disk(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, which a power cut leaves with what is put into them.

    Raises `BadInput` where a file is in the way.
    """
    missing = []
    for above in (folder, *folder.parents):
        if above.is_dir():
            break
        if os.path.lexists(above):
            raise BadInput(f"{above} is a file, and no folder", "name another folder")
        missing.append(above)
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it, read-only ones too. What a link names stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _open_up(path)
        shutil.rmtree(path)


def _open_up(folder: Path) -> None:
    folder.chmod(0o700)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            _open_up(Path(entry.path))


def empty(folder: Path) -> None:
    """Remove all that a folder holds."""
    for path in folder.iterdir():
        remove(path)


@contextmanager
def locked_folder(folder: Path, taken: str) -> Iterator[None]:
    """Make a folder, and hold it for this process alone: a killed process lets go of it.

    Raises `BadInput`, saying `taken`, where another process holds it.
    """
    while True:
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise BadInput(f"{folder} is a file, and in the way", "remove it") from None
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another run has just finished with it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BadInput(taken, "wait for it, or choose another folder") from None
        # Between making and locking it, another run may have finished with it.
        if _is_at(handle, folder):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Let nobody else change what stands in a folder, or put another in its place, meanwhile.

    For a moment only: others wait.
    """
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, folder):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise `Lacking` where the disk of `folder`, which need not exist yet, has not enough room."""
    here = next(path for path in (folder, *real_path(folder).parents) if path.is_dir())
    free_bytes = shutil.disk_usage(here).free
    if free_bytes < needed_bytes:
        raise Lacking(
            f"{folder} needs {needed_bytes / 1e9:.1f} GB and its disk has "
            f"{free_bytes / 1e9:.1f} GB free",
            "free space, or choose another -o",
        )
