"""How long work tells whoever started it how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with what is being done, how much is done, of how much, and in which unit."""


def silent(what: str, done: int, total: int, unit: str) -> None:
    """Progress that nobody watches."""


WORTH_TELLING_S = 60.0


def foretold(
    progress: Progress,
    tell: Callable[[str], None],
    what: str,
    parts: int,
    now_s: Callable[[], float] = time.monotonic,
) -> Progress:
    """`progress`, and a line of how long work of `parts` like parts will take, after the first.

    Nothing is told of other work than `what`, nor where a minute or less is left.
    """
    begun: list[tuple[int, float]] = []
    told: list[bool] = []

    def report(name: str, done: int, total: int, unit: str) -> None:
        progress(name, done, total, unit)
        if name != what or told:
            return
        now = now_s()
        if not begun:
            begun.append((done, now))
            return
        first, began = begun[0]
        each = total // parts
        if done - first < max(each, 1):
            return
        told.append(True)
        took, left = now - began, total - done
        left_s = took * left / (done - first)
        if left_s > WORTH_TELLING_S:
            tell(
                f"{what}: the first of {(total - first) // max(each, 1)} blocks took "
                f"{in_minutes(took)}: the others will take about {in_minutes(left_s)}"
            )

    return report


def in_minutes(seconds: float) -> str:
    """A time as people say it: 12 s, 5 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
