"""How long work tells whoever started it how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much is done, of how much, and in which unit."""


def silent(what: str, done: int, total: int, unit: str) -> None:
    """Progress that nobody watches."""
