"""The only clock: one step of any session, from tokens on the host to logits on the host."""

from __future__ import annotations

import time

from llx.bench.session import Session, Tokens


def now_ns() -> int:
    """A monotonic time in nanoseconds."""
    return time.perf_counter_ns()


def timed_step(session: Session, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> int:
    """Run one step and return its nanoseconds. The logits are on the host when it ends."""
    start = now_ns()
    session.enqueue(tokens, positions, logit_index)
    session.sync()
    session.logits()
    return now_ns() - start
