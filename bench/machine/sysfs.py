"""Files in which the kernel tells one thing. What is not there, or not what it should be, is None.

Needs the standard library only, as does whatever reads a machine: it runs on a device too.
"""

from __future__ import annotations

import re
from pathlib import Path

MOST_CHARACTERS = 1 << 20
MOST = 1 << 63


def text(path: Path) -> str | None:
    """What a file says, without white space and NUL around it; None where it says nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CHARACTERS)
    except OSError:
        return None
    return data.decode(errors="replace").strip("\0 \t\r\n") or None


def number(path: Path, most: int = MOST) -> int | None:
    """A file's whole number from 0 to `most`; None for all else that it may hold."""
    return whole(text(path), most)


def whole(said: str | None, most: int = MOST) -> int | None:
    """A whole number from 0 to `most` in decimal digits; None for anything else."""
    if said is None or not re.fullmatch(r"[0-9]{1,20}", said):
        return None
    value = int(said)
    return value if value <= most else None


def numbered(folder: Path, prefix: str) -> list[Path]:
    """The entries of a folder that are called so and a number, in its order."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    found = [name for name in names if re.fullmatch(rf"{re.escape(prefix)}[0-9]{{1,6}}", name)]
    return [folder / name for name in sorted(found, key=lambda name: int(name[len(prefix) :]))]
