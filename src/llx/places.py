"""Where this user's checkpoints lie, by what their files hold.

An artifact names no folder of who made it, and one that was copied lies beside no checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from llx.noted import note_in, notes_in

NOTES = "checkpoints.json"
MOST_NOTES = 200
MOST_PLACES = 5  # of one checkpoint


def folder_of(checkpoint: Path) -> Path:
    """The folder that a checkpoint's files lie in: itself, or that of the file that it is."""
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def note_place(key: str, path: Path) -> None:
    """Note that a checkpoint lies at a path, for this user's later commands."""
    here = path.absolute()
    others = [place for place in noted_places(key) if place != here]
    places = [str(place) for place in (here, *others)][:MOST_PLACES]
    note_in(NOTES, key, places, list[str], MOST_NOTES)


def noted_places(key: str) -> list[Path]:
    """Where a checkpoint was seen to lie, the newest first; none where it was not noted."""
    return [Path(place) for place in notes_in(NOTES, list[str]).get(key, [])]
