"""Parity: two sessions given the same steps, and the largest difference between their logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llx.bench.session import Session
from llx.bench.speed import steps

PREFILL, DECODE = 24, 8


@dataclass(frozen=True)
class Parity:
    """Largest absolute logit error, and whether every argmax agrees, prefill and decode apart.

    `spread` is the standard deviation of the reference's logits: what an error is large against.
    """

    prefill_error: float
    decode_error: float
    same_top1: bool
    spread: float


def compare(session: Session, reference: Session, seed: int = 0) -> Parity:
    """Prefill random tokens, then decode on the filled cache, with both sessions."""
    count = min(PREFILL, -(-session.limits.capacity // 2))
    more = min(DECODE, session.limits.capacity - count)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, session.limits.vocab, (1, count + more), dtype=np.int64)
    found = []
    for one in (session, reference):
        one.reset()
        prefill = [part.copy() for part in steps.prefill_logits(one, tokens[:, :count])]
        decode = [prefill[0][:, :0]]  # none, where the cache holds a single position
        for at in range(count, count + more):
            steps.decode_step(one, np.ascontiguousarray(tokens[:, at : at + 1]), at)
            decode.append(one.logits().copy())
        found.append((np.concatenate(prefill, 1), np.concatenate(decode, 1)))
    (prefill_a, decode_a), (prefill_b, decode_b) = found
    return Parity(
        prefill_error=float(np.abs(prefill_a - prefill_b).max()),
        decode_error=float(np.abs(decode_a - decode_b).max(initial=0.0)),
        same_top1=bool(
            (prefill_a.argmax(-1) == prefill_b.argmax(-1)).all()
            and (decode_a.argmax(-1) == decode_b.argmax(-1)).all()
        ),
        spread=float(prefill_b.std()),
    )
