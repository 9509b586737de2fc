"""A path where nothing can be read, in words: what is wrong with it, and what may be meant."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

from llx.errors import BadInput

MOST_NAMES = 10_000  # of a folder, that are looked at
MOST_NEAR = 3


def is_broken_link(path: Path) -> bool:
    """Whether a symbolic link stands there that leads to nothing."""
    return os.path.islink(path) and not os.path.exists(path)


def absence(path: Path) -> str:
    """Why there is nothing to read at a path: what follows its name in a sentence."""
    if is_broken_link(path):
        return f"is a link to {os.readlink(path)}, which is not there"
    return "is missing"


def near(path: Path) -> list[Path]:
    """Paths that exist and are called almost like one that does not, the likeliest first.

    Where a folder on the way does not exist, it is the one that is looked for.
    """
    folder = path.parent
    while not os.path.isdir(folder) and folder != folder.parent:
        path, folder = folder, folder.parent
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []
    # Cases are told apart by file systems, and seldom by who types.
    folded = {name.casefold(): name for name in sorted(names, reverse=True)}
    found = difflib.get_close_matches(path.name.casefold(), folded, MOST_NEAR)
    return [folder / folded[name] for name in found]


def near_in_words(path: Path) -> str:
    """The same as the end of a message, or "" where nothing is called like it."""
    found = ", ".join(map(str, near(path)))
    return f"; there is {found}" if found else ""


def no_such(path: Path, remedy: str) -> BadInput:
    """The error for a path that leads to nothing."""
    if is_broken_link(path):
        return BadInput(f"{path} {absence(path)}", f"mend the link, or {remedy}")
    return BadInput(f"{path} does not exist{near_in_words(path)}", remedy)
