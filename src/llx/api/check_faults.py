"""How `llx.check` says and notes a fault: its cause, its numbers, and where to report it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from llx.bench.session import Unfit
from llx.errors import BadInput, GateFailed, LlxError

REPORT = "report it with the file that `llx doctor --bundle` writes"


def because(words: str | None, ruled_out: Sequence[str]) -> str:
    """The cause in words, or that none is known, and what was ruled out."""
    if words is not None:
        return words
    tried = f", ruled out: {', '.join(ruled_out)}" if ruled_out else ""
    return f"no known cause explains it{tried}"


def finite(value: float) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return float(value) if np.isfinite(value) else None


def require_excused(error: LlxError, asked: bool) -> None:
    """Raise where what could not be looked at is no mere lack of this machine that nobody asked of.

    Raises `GateFailed` where the graph is at fault, and the error itself where an engine was asked
    for by its name, or the check has failed already.
    """
    if isinstance(error, Unfit):
        raise GateFailed(error.message, error.remedy) from None
    if asked or isinstance(error, GateFailed):
        raise error


@contextmanager
def at_fault() -> Iterator[None]:
    """What is said within of a file that cannot be used is said of the artifact: it has failed."""
    try:
        yield
    except BadInput as error:
        raise GateFailed(error.message, error.remedy) from None
