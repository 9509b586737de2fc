"""How `llx.check` says and notes a fault: its cause, its numbers, and where to report it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
