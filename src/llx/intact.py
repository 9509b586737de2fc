"""Files that were seen whole: each is read and hashed once for every state that it is in.

A state is what stat(2) says of a file: device, inode, size, and when its bytes (mtime) and anything
about it (ctime) last changed. Nobody but the kernel sets a ctime, so a file that was written since
is read again. What was seen is noted in the user's state folder, for other processes; where that is
missing, full or damaged, files are read again, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

from llx.errors import BadInput
from llx.files import CHUNK_BYTES, sha256_of
from llx.noted import note_in, notes_in
from llx.progress import Progress, silent

NOTES = "seen.json"
MOST_NOTES = 500
SHOWN_BYTES = 256 << 20  # from here on reading takes long enough to show how far it is
NOTED_BYTES = 16 << 20  # what is smaller is read sooner than its note
# Clocks of file systems tick slowly: a file that changed so shortly before it was read may change
# once more within the same tick. FAT's ticks are the longest, of two seconds.
TICK_NS = 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """A file as stat(2) shows it. Equal states are the same bytes."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int
    ctime_ns: int

    def same_bytes(self, other: FileState) -> bool:
        """Whether it is the same file, not written since; its name or mode may have changed."""
        return astuple(self)[:-1] == astuple(other)[:-1]


class Note(NamedTuple):
    """A file's state when it was seen whole, and its SHA-256."""

    state: FileState
    sha256: str


_seen: dict[str, Note] = {}  # by this process


def state_of(path: Path) -> FileState:
    """The state of a file, or of what a link names."""
    return _state(path.stat())


def _state(found: os.stat_result) -> FileState:
    return FileState(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


def seen(path: Path, wanted: str, progress: Progress = silent) -> tuple[str, FileState]:
    """A file's SHA-256 and the state that it was read in, which is read where it is not known.

    What a note says is believed only where it is the hash that is `wanted`: notes may be damaged
    too. Raises `BadInput` where the file is written meanwhile.
    """
    state = state_of(path)
    for notes in (_seen, notes_in(NOTES, Note)):
        known = notes.get(_key(state))
        if known == (state, wanted):
            return wanted, state
    found, state, settled = _hashed(path, progress)
    if settled:
        _note(state, found)
    return found, state


def content_of(path: Path, progress: Progress = silent) -> str:
    """A file's SHA-256: what it holds, wherever it lies and whenever it was written.

    A large one is read once for each of its states. A note is believed here without knowing what it
    should say: that it is damaged makes of a file another one, until the file's state changes.
    """
    state = state_of(path)
    if state.bytes < NOTED_BYTES:
        return sha256_of(path)
    for notes in (_seen, notes_in(NOTES, Note)):
        known = notes.get(_key(state))
        if known and known.state == state:
            return known.sha256
    found, state, settled = _hashed(path, progress)
    if settled:
        _note(state, found)
    return found


def _hashed(path: Path, progress: Progress) -> tuple[str, FileState, bool]:
    """Hash and state, and whether no later change can have that state as well."""
    digest, began = hashlib.sha256(), time.time_ns()
    with path.open("rb") as file:
        state = _state(os.fstat(file.fileno()))
        shown = progress if state.bytes >= SHOWN_BYTES else silent
        done = 0
        while chunk := file.read(CHUNK_BYTES):
            shown(f"check {path.name}", done, state.bytes, "B")
            digest.update(chunk)
            done += len(chunk)
        shown(f"check {path.name}", done, state.bytes, "B")
        if not state.same_bytes(_state(os.fstat(file.fileno()))):
            raise BadInput(
                f"{path} was written while it was read", "wait until nothing writes it any more"
            )
    return digest.hexdigest(), state, state.ctime_ns + TICK_NS < began


def _key(state: FileState) -> str:
    return f"{state.device}:{state.inode}"


def _note(state: FileState, sha256: str) -> None:
    _seen[_key(state)] = Note(state, sha256)
    note_in(NOTES, _key(state), Note(state, sha256), Note, MOST_NOTES)
