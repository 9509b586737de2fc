"""What a power cut leaves: of all that was written, only what was brought to the disk is sure.

By fsync(2) a file's bytes are on the disk, and a folder's names. Of a file that was written since,
any part may be there: none of it, half, all. A name that was given, changed or taken away since
its folder was last brought to the disk may be as before, or as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llx.files import remove
from llx.whole import _exchange

PARTS = (0.0, 0.5)  # of a file that was not brought to the disk


@dataclass
class Change:
    """A change of names, as tests/faults.c logs it; `folders`: those not on the disk since."""

    what: str
    one: str
    other: str
    grave: str
    folders: set[int] = field(default_factory=set)


def cuts(root: Path, logged: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """What a cut at the end of a log may have left of a folder: each in a copy of it, and named."""
    written, changes = _unsure(logged / "log")
    unsure = {
        path.relative_to(root): path.stat().st_size
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_ino in written
    }
    for part, undone in itertools.product(PARTS if unsure else (1.0,), (False, True)):
        if undone and not changes:
            continue
        copy = work / "cut"
        remove(copy)
        shutil.copytree(root, copy, symlinks=True)
        for name, size in unsure.items():
            os.truncate(copy / name, int(size * part))
        if undone:
            for change in reversed(changes):
                with contextlib.suppress(OSError):
                    _undo(change, str(root), str(copy), logged)
        names = "names undone" if undone else "names kept"
        yield f"{len(unsure)} files cut to {part:g}, {names}", copy


def _unsure(log: Path) -> tuple[set[int], list[Change]]:
    """Inodes of files, and changes of names, that were not brought to the disk."""
    written: set[int] = set()
    changes: list[Change] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        what, file, folder, one, other, grave = line.split("\t")
        if what == "sync":
            written.discard(int(file))
            for change in changes:
                change.folders.discard(int(file))
        elif what == "write":
            written.add(int(file))
        else:
            if what == "create":
                written.add(int(file))
            folders = {int(file), int(folder)} if what in ("rename", "exchange") else {int(folder)}
            changes.append(Change(what, one, other, grave, folders))
    return written, [change for change in changes if change.folders]


def _undo(change: Change, root: str, copy: str, logged: Path) -> None:
    one, other = (Path(name.replace(root, copy, 1)) for name in (change.one, change.other))
    if change.what in ("create", "mkdir"):
        remove(one)
    elif change.what == "exchange":
        _exchange(one, other)
    elif change.what == "rename":
        os.rename(other, one)
        if change.grave:
            shutil.copy2(logged / Path(change.grave).name, other)
    elif change.what == "unlink" and change.grave:
        shutil.copy2(logged / Path(change.grave).name, one)
    elif change.what == "rmdir":
        one.mkdir()
