"""Folders that appear whole or not at all, take another's place in one step, and leave nothing.

A run that writes `NAME` works in `.NAME.partial` beside it, which it holds: `new` is being written
there, and `old` is what it replaced. A killed run lets go of it, and the next one removes it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llx.errors import BadInput
from llx.files import (
    beside,
    changing,
    empty,
    locked_folder,
    make_folder,
    real_path,
    remove,
    sync,
)

Tell = Callable[[str], None]
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2), Linux
# What it says where it cannot: an older kernel, or a file system that has no such thing.
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def whole_folder(folder: Path, tell: Tell, work: str = "export") -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` when all went well.

    What stood there before is where it was if anything fails, or if the caller removes what it was
    given. What a killed run left is removed, and `tell` is told. A link stays, and what it names is
    replaced. Raises `BadInput` where another run, called `work`, is writing.
    """
    target = real_path(folder)
    make_folder(target.parent)
    own = beside(target, "partial")
    with locked_folder(own, f"another {work} is writing {folder}"):
        _clear(target, own, tell, work)
        new = own / "new"
        new.mkdir()
        try:
            yield new
            if new.exists():
                sync_tree(new)
                _take_the_place(new, target, own / "old")
        finally:
            _put_back(target, own)
            try:
                remove(own)
            except OSError as error:
                tell(f"{own} cannot be removed ({error.strerror}): the next {work} removes it")


def clear_leftovers(folder: Path, tell: Tell, work: str = "export") -> None:
    """Remove what a killed run that was writing `folder` left, and put back what it had moved.

    Nothing of a run that is at work is touched.
    """
    target = real_path(folder)
    own = beside(target, "partial")
    if not any(os.path.lexists(path) for path in (own, beside(target, "old"))):
        return
    try:
        with locked_folder(own, ""):
            _clear(target, own, tell, work)
            remove(own)
    except (BadInput, OSError):  # a run is at work, or it may not be removed: it is in no way
        return


def clear_leftovers_in(parent: Path, tell: Tell, work: str) -> None:
    """The same for every folder of a folder of ours."""
    for own in parent.glob(".*.partial"):
        clear_leftovers(parent / own.name[1 : -len(".partial")], tell, work)


def _clear(target: Path, own: Path, tell: Tell, work: str) -> None:
    """Under the lock: undo what a run had begun that was killed, and remove what it left."""
    _put_back(target, own)
    earlier = beside(target, "old")  # as llx 0.1 called it
    left = [path for path in (own, earlier) if path.is_dir() and any(path.iterdir())]
    empty(own)
    remove(earlier)
    for path in left:
        tell(f"removed {path}, which a killed {work} had left")


def _put_back(target: Path, own: Path) -> None:
    """What a run had moved aside, where nothing has taken its place."""
    for old in (own / "old", beside(target, "old")):
        if old.is_dir() and not os.path.lexists(target):
            os.rename(old, target)
            sync(target.parent)


def _take_the_place(new: Path, target: Path, old: Path) -> None:
    """Rename a folder to a name that another may have, in one step where the system can."""
    if not os.path.lexists(target):
        os.rename(new, target)
    else:
        with changing(target):
            if not _exchange(new, target):
                os.rename(target, old)
                os.rename(new, target)
    sync(target.parent)
    sync(new.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change their names at once; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(path) for path in (one, other))
    first, second = names
    if rename(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def sync_tree(folder: Path) -> None:
    """Bring every file of a folder, and every name in it, to the disk."""
    for at, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(at) / name)
        sync(Path(at))


def require_replaceable(folder: Path) -> None:
    """Raise `BadInput` for a folder that no other can take the place of: that one stands in.

    "." and "/" are such, and an empty name.
    """
    target = real_path(folder)
    if target in (here := real_path(Path.cwd()), *here.parents):
        raise BadInput(
            f"-o {folder} is the folder that you are in, or one above it, and is not replaced",
            "name a folder of its own, such as -o artifacts/mine",
        )
    if os.path.lexists(target) and not target.is_dir():
        raise BadInput(f"-o {folder} is a file, and no folder", "name a folder of its own")
