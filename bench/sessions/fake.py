"""`fake`: a session with the full protocol and no model, for tests of the harness.

Its softmax follows from the last token alone, so a test can predict it; its logits do from all
tokens in the cache, as a model's. It records every step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llx.bench.session import Details, Memory, Tokens
from llx.graphs.contract import Limits, StepGuard


class FakeSession:
    """Answers token t with the logits of `next_token(t)` = (t + 1) mod V, at a given sharpness.

    All of a row's logits are raised by the mean of the tokens seen, as a share of V.
    """

    weights = "none: a recording double"
    reads_capacity = False

    def __init__(self, limits: Limits, rows: int = 1, sharpness: float = 4.0) -> None:
        self.limits, self.rows, self.sharpness = limits, rows, sharpness
        self.steps: list[tuple[Tokens, Tokens, Tokens]] = []
        self.resets = 0
        self.closed = False
        self._guard = StepGuard(limits, rows)
        self._cache = np.zeros((rows, limits.capacity), np.int64)
        self._logits = np.zeros((rows, 0, limits.vocab), np.float32)

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Record the step and make its logits."""
        self._guard.admit(tokens, positions, logit_index)
        self.steps.append((tokens.copy(), positions.copy(), logit_index.copy()))
        picked = np.take_along_axis(tokens, logit_index, 1)  # [B, K]
        answer = (picked + 1) % self.limits.vocab
        np.put_along_axis(self._cache, positions, tokens, 1)
        at = np.take_along_axis(positions, logit_index, 1)
        seen = np.take_along_axis(self._cache.cumsum(1), at, 1) / (at + 1) / self.limits.vocab
        sharp = self.sharpness * np.eye(self.limits.vocab, dtype=np.float32)[answer]
        self._logits = sharp + seen[..., None].astype(np.float32)

    def sync(self) -> None:
        """Nothing to wait for."""

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]."""
        return self._logits

    def reset(self) -> None:
        """Forget the positions; the cache is overwritten before it is read."""
        self.resets += 1
        self._guard.reset()

    def memory(self) -> Memory:
        """No cache."""
        return Memory(cache_bytes=0)

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True

    def details(self) -> Details:
        """Nothing that a result must name."""
        return {"threads": 1}
