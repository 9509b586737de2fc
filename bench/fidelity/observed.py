"""What fidelity needs of an engine's logits, token by token. What it shows is `fidelity`'s.

Of each scored token: its own logit, those at the reference's tokens, the largest one's token, and
the normaliser. Like a session of TensorRT, this runs on the device too: numpy will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llx.bench.session import Tokens
from llx.bench.speed import steps
from llx.bench.speed.samples import OpenSession
from llx.errors import GateFailed
from llx.progress import Progress, silent

Span = tuple[int | slice, int | slice]


@dataclass(frozen=True)
class Observed:
    """What one phase gave for the last S tokens of W windows: [W, S], `at_ids` [W, S, k + m].

    `at_ids` are the logits at the reference's tokens.
    """

    at_ids: NDArray[np.float32]
    true_logit: NDArray[np.float32]
    log_sum_exp: NDArray[np.float64]
    best: NDArray[np.int64]

    @classmethod
    def empty(cls, ids: NDArray[np.int32]) -> Observed:
        """Room for the tokens that the reference has `ids` for, not a number until observed."""
        shape = ids.shape[:-1]
        return cls(
            np.full(ids.shape, np.nan, np.float32),
            np.full(shape, np.nan, np.float32),
            np.full(shape, np.nan),
            np.full(shape, -1, np.int64),
        )

    def note(
        self, span: Span, logits: NDArray[np.float32], ids: NDArray[np.int32], targets: Tokens
    ) -> None:
        """Keep of logits [n, V] at `span` what fidelity needs.

        Raises `GateFailed` where they are not finite.
        """
        sums = log_sum_exp(logits)
        if not np.isfinite(sums).all():
            raise GateFailed(
                "the engine's logits are not finite, where PyTorch's in fp32 are",
                "the precision cannot hold this model: export with --precision fp32 or bf16",
            )
        self.at_ids[span] = np.take_along_axis(logits, ids[span].astype(np.int64), -1)
        self.true_logit[span] = logits[np.arange(len(logits)), targets]
        self.log_sum_exp[span] = sums
        self.best[span] = logits.argmax(-1)


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log of the sum of exponentials over the vocabulary, in float64: [..., V] → [...]."""
    wide = logits.astype(np.float64)
    most = wide.max(-1, keepdims=True)
    np.exp(np.subtract(wide, most, out=wide), out=wide)
    return np.asarray(np.log(wide.sum(-1)) + most[..., 0])


def observe_prefill(
    open_session: OpenSession, tokens: Tokens, ids: NDArray[np.int32], progress: Progress = silent
) -> Observed:
    """One window at a time, in chunks as long as the engine takes: tokens [W, N]."""
    found = Observed.empty(ids)
    unscored = tokens.shape[1] - 1 - ids.shape[1]
    session = open_session(1)
    windows = len(tokens)
    for w in range(windows):
        progress("fidelity: prefill", w, windows, "window")
        session.reset()
        at = 0
        for logits in steps.prefill_logits(session, tokens[w : w + 1, :-1]):
            first, at = max(at, unscored), at + logits.shape[1]
            if first < at:
                span = np.s_[w, first - unscored : at - unscored]
                found.note(span, logits[0][first - at :], ids, tokens[w, first + 1 : at + 1])
    progress("fidelity: prefill", windows, windows, "window")
    session.close()
    return found


def observe_decode(
    open_session: OpenSession, tokens: Tokens, ids: NDArray[np.int32], progress: Progress = silent
) -> Observed:
    """Every token a step of its own from an empty cache, the windows being rows in lockstep."""
    found = Observed.empty(ids)
    unscored = tokens.shape[1] - 1 - ids.shape[1]
    windows, length = len(tokens), tokens.shape[1] - 1
    rows = 1
    session = open_session(rows)
    most = session.limits.max_rows
    for first in range(0, windows, most):
        group = np.s_[first : min(first + most, windows)]
        part = tokens[group]
        if len(part) != rows:
            session.close()
            rows = len(part)
            session = open_session(rows)
        session.reset()
        for at in range(length):
            progress("fidelity: decode", first * length + at * rows, windows * length, "token")
            steps.decode_step(session, np.ascontiguousarray(part[:, at : at + 1]), at)
            if at >= unscored:
                span = group, at - unscored
                found.note(span, session.logits()[:, 0], ids, part[:, at + 1])
    progress("fidelity: decode", windows * length, windows * length, "token")
    session.close()
    return found
