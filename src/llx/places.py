"""Where this user's checkpoints lie, by what their files hold: artifacts name no folder of theirs.

A note is a help and nothing more: where it is missing or wrong, a checkpoint is not found.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from llx.errors import LlxError
from llx.files import make_folder, state_folder, write_whole

NOTES = "checkpoints.json"
MOST_NOTES = 200
MOST_PLACES = 5  # of one checkpoint

Notes = dict[str, list[str]]


def note_place(key: str, path: Path) -> None:
    """Note that a checkpoint lies at a path, for this user's later commands."""
    here = str(path.absolute())
    with contextlib.suppress(OSError, LlxError):
        notes = _noted()
        others = [place for place in notes.pop(key, []) if place != here]
        notes[key] = [here, *others][:MOST_PLACES]
        make_folder(state_folder())
        kept = dict(list(notes.items())[-MOST_NOTES:])
        write_whole(state_folder() / NOTES, msgspec.json.encode(kept))


def noted_places(key: str) -> list[Path]:
    """Where a checkpoint was seen to lie, the newest first."""
    return [Path(place) for place in _noted().get(key, [])]


def _noted() -> Notes:
    try:
        return msgspec.json.decode((state_folder() / NOTES).read_bytes(), type=Notes)
    except (OSError, LlxError, ValueError):  # no home, no file, or a damaged one
        return {}
