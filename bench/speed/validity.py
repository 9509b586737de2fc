"""Whether a session did what was asked of it, as its logits tell. What it took is the clock's.

The harness chooses every token and position, so what an engine can do is less than it was told, or
remember what it should not. Each shows in the logits, which are looked at between timed steps:

- a step that gives fewer logits than asked, or leaves them as they were, was not carried out;
- two prompts that give the very same logits were not both computed;
- a prompt that gives other logits after a reset met what an earlier one had left in the cache;
- a prompt that takes half of the time when it comes again was remembered;
- a prompt whose first half can be another, and changes nothing, was not read.

Like the samples, this runs on the device too: numpy will do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llx.bench.session import Session, Tokens

LOOKED_AT = 1024  # logits of a row, evenly spread: looking takes microseconds, and not 50 of them
# The same steps give the same logits, but for the order in which a GPU adds. What a longer cache
# would give is another distribution. As a share of the logits' standard deviation:
SAME = 0.1
REMEMBERED = 0.5  # of the time of a fresh prompt

Print = NDArray[np.float32]


class Witness:
    """Looks at the logits of a test's steps, and collects what is wrong with them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._steps = self._short = self._still = 0
        self._finite = True
        self._faults: dict[str, None] = {}
        self._answers: dict[bytes, bytes] = {}
        self._before: tuple[Tokens, Print] | None = None

    @property
    def faults(self) -> list[str]:
        """Each thing that is wrong, once."""
        counted = []
        if self._short:
            counted.append(
                f"{self._short} of {self._steps} steps gave other logits than were asked for"
            )
        if self._still:
            counted.append(
                f"{self._still} of {self._steps} steps left the logits as they were: "
                "the session stops early"
            )
        if not self._finite:
            counted.append("logits are not finite: nothing shows that they were computed")
        return [*counted, *self._faults]

    def begin(self) -> None:
        """A repetition begins."""
        self._before = None

    def look(self, tokens: Tokens) -> Print | None:
        """Look at the logits of a step that has just been timed; None where there is nothing."""
        self._steps += 1
        limits, logits = self._session.limits, self._session.logits()
        if logits.shape != (len(tokens), 1, limits.vocab):
            self._short += 1
            self._before = None
            return None
        seen: Print = logits[:, 0, :: max(1, limits.vocab // LOOKED_AT)].copy()  # [B, about 1024]
        if self._before is not None:
            fed, last = self._before
            other = fed[:, -1] != tokens[:, -1]
            self._still += bool((seen[other] == last[other]).all(1).any())
        self._before = (tokens, seen)
        if not np.isfinite(seen).all():
            self._finite = False
            return None
        return seen

    def end(self, tokens: Tokens) -> None:
        """A repetition of tokens [B, N] is over: its answer must be no other prompt's."""
        if self._before is None or not self._finite:
            return
        for row, answer in zip(tokens, self._before[1], strict=True):
            prompt = row.tobytes()
            if self._answers.setdefault(answer.tobytes(), prompt) != prompt:
                self._faults["different prompts gave the same logits: an answer was reused"] = None

    def same_prompt(self, first: Print, again: Print | None) -> None:
        """The logits of a prompt, and of the same prompt after a reset."""
        if again is None:
            return
        off = float(np.sqrt(np.mean((again - first) ** 2)))
        if off > SAME * float(first.std()):
            self._faults[
                "the same prompt gave other logits after a reset: the cache was not forgotten"
            ] = None

    def same_time(self, fresh_ns: int, again_ns: int) -> None:
        """The least time of fresh prompts, and the most of one that had been seen."""
        if again_ns < REMEMBERED * fresh_ns:
            share = 100 * again_ns / fresh_ns
            self._faults[
                f"a prompt that was seen before took {share:.0f} % of the time: a cache outlives "
                "its repetition"
            ] = None

    def other_beginning(self, first: Print, other: Print | None) -> None:
        """The logits of a prompt, and of one with the same end."""
        if other is not None and (other == first).all(1).any():
            self._faults["the prompt's first half changes no logit: it was not read"] = None
