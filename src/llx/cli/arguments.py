"""Arguments that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from llx.errors import BadInput

ArtifactFolder = Annotated[
    Path | None,
    typer.Argument(
        help="An artifact's folder. [default: the one exported last]", show_default=False
    ),
]


def command_line() -> str:
    """The command as it was typed: it belongs to every number."""
    return shlex.join(["llx", *sys.argv[1:]])


def numbers(text: str, option: str, least: int = 1, example: str = "128,512") -> tuple[int, ...]:
    """A comma list such as 128,512. Raises `BadInput` for anything else."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise BadInput(
            f"{option} {text!r} is not a list of numbers from {least} up",
            f"write {option} {example}",
        )
    return values


def lengths(text: str, option: str) -> tuple[int, ...]:
    """A comma list of lengths; 0 leaves that test out."""
    return tuple(length for length in numbers(text, option, least=0) if length)
