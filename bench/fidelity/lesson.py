"""A session taught token by token: its logits against PyTorch's, prefill and decode apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity.reference import Scores
from llx.bench.fidelity.taps import DECODE
from llx.bench.fidelity.tolerance import DRAWS, UNIT
from llx.bench.session import Session, Tokens
from llx.bench.speed import steps
from llx.graphs.contract import Limits
from llx.precision import Compute

WINDOWS, PREFILL, FURTHER, DECODED = 2, 16, 8, 8
LENGTH = PREFILL + FURTHER + DECODED


@dataclass(frozen=True)
class Lesson:
    """Windows of tokens [W, N], what their logits should be, and what the type explains.

    `logits` [W, N, K] are those of all tokens, or of `ids` [W, N, K] where a captured reference
    has no others. `explained` [W, N]: root mean square over the logits of what rounding alone does.
    """

    tokens: Tokens
    logits: NDArray[np.float32]
    explained: NDArray[np.float64]
    ids: NDArray[np.int32] | None = None

    def error(self, window: int, start: int, found: NDArray[np.float32]) -> float:
        """Largest root mean square error of positions from `start` on: logits [T, V]."""
        span = np.s_[window, start : start + len(found)]
        here = found
        if self.ids is not None:
            here = np.take_along_axis(found, self.ids[span].astype(np.int64), -1)
        return float(rms(here, self.logits[span]).max())


@dataclass(frozen=True)
class Learned:
    """Largest root mean square logit error of any position, and what is allowed, by phase."""

    prefill: float
    decode: float
    allowed: float

    @property
    def right(self) -> bool:
        """Whether nothing is beyond what is allowed; NaN always is."""
        return self.prefill <= self.allowed and self.decode <= self.allowed

    @property
    def worst(self) -> float:
        """The larger of both."""
        return max(self.prefill, self.decode)

    @property
    def phase(self) -> str:
        """Where it is off, or more so."""
        return "decode" if self.prefill <= self.allowed else "prefill"


def rms(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root mean square of the difference over the last axis; infinite where it is no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.sqrt(np.square(one.astype(np.float64) - other).mean(-1))
    return np.where(np.isfinite(off), off, np.inf)


def random_windows(limits: Limits, seed: int = 0) -> Tokens:
    """Windows of random tokens that fit a cache, [W, N]."""
    length = min(LENGTH, limits.capacity)
    rng = np.random.default_rng(seed)
    return rng.integers(0, limits.vocab, (WINDOWS, length), dtype=np.int64)


def captured_lesson(scores: Scores, explained: NDArray[np.float64]) -> Lesson:
    """The first tokens of a captured reference's first windows; the last has no logits there."""
    tokens = captured_windows(scores)
    count = tokens.shape[1]
    span = np.s_[: len(tokens), :count]
    return Lesson(tokens, scores.logits[span], explained, scores.ids[span])


def captured_windows(scores: Scores) -> Tokens:
    """The tokens of `captured_lesson`, [W, N]."""
    windows = scores.tokens[:WINDOWS]
    return np.ascontiguousarray(windows[:, : min(LENGTH, windows.shape[1] - 1)])


def allowed_for(lesson: Lesson, compute: Compute, wider: float = 1.0) -> float:
    """What a session may be off by: the largest that is explained, drawn anew.

    Never less than the rounding of the logits themselves. `wider`: by how much more the session's
    kernels may err than those of PyTorch's on a CPU.
    """
    explained = lesson.explained[np.isfinite(lesson.explained)]  # what overflows explains nothing
    drawn = DRAWS * float(explained.max(initial=0.0)) * wider
    return max(drawn, DRAWS * UNIT[compute] * float(np.abs(lesson.logits).max(initial=0.0)))


def learn(session: Session, lesson: Lesson, compute: Compute, wider: float = 1.0) -> Learned:
    """Prefill half of each window, more on the filled cache, and decode the rest."""
    length = lesson.tokens.shape[1]
    half = -(-length // 2)
    quarter = half + length // 4
    worst = {"prefill": 0.0, DECODE: 0.0}
    for w in range(len(lesson.tokens)):
        session.reset()
        row = lesson.tokens[w : w + 1]
        for start, end in ((0, half), (half, quarter)):
            at = start
            for logits in steps.prefill_logits(session, row[:, start:end], start):
                worst["prefill"] = max(worst["prefill"], lesson.error(w, at, logits[0]))
                at += logits.shape[1]
        for at in range(quarter, length):
            steps.decode_step(session, np.ascontiguousarray(row[:, at : at + 1]), at)
            worst[DECODE] = max(worst[DECODE], lesson.error(w, at, session.logits()[0]))
    return Learned(worst["prefill"], worst[DECODE], allowed_for(lesson, compute, wider))
