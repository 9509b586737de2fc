"""Notes that commands of this user leave to one another: small files of JSON in the state folder.

A note is a help and nothing more: where it is missing, full or damaged, there is none.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

import msgspec

from llx.errors import LlxError
from llx.files import make_folder, state_folder, write_whole

Note = TypeVar("Note")


def notes_in(file: str, of: type[Note]) -> dict[str, Note]:
    """What any process has noted in a file, the newest last."""
    try:
        return msgspec.json.decode((state_folder() / file).read_bytes(), type=dict[str, of])  # type: ignore[valid-type]
    except (OSError, LlxError, ValueError):  # no home, no file, or a damaged one
        return {}


def note_in(file: str, key: str, note: Note, of: type[Note], most: int) -> None:
    """Note something, in the place of an older note of that key; at `most` so many are kept."""
    with contextlib.suppress(OSError, LlxError):
        notes = {known: one for known, one in notes_in(file, of).items() if known != key}
        kept = dict([*notes.items(), (key, note)][-most:])
        make_folder(state_folder())
        write_whole(state_folder() / file, msgspec.json.encode(kept))
