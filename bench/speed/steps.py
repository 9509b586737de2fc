"""Prefill and decode in terms of a session's steps: chunks, positions, which logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from llx.bench.clock import timed_step
from llx.bench.session import Session, Tokens


def chunks(session: Session, tokens: Tokens, start: int = 0) -> Iterator[tuple[Tokens, Tokens]]:
    """Cut tokens [B, N] into steps of at most the session's T: (tokens, positions), [B, T] each."""
    most = session.limits.max_new_tokens
    for at in range(0, tokens.shape[1], most):
        part = np.ascontiguousarray(tokens[:, at : at + most])
        positions = np.arange(start + at, start + at + part.shape[1], dtype=np.int64)
        yield part, np.tile(positions, (len(part), 1))


def last_index(tokens: Tokens) -> Tokens:
    """The logit index that picks the last position of each row, [B, 1]."""
    return np.full((len(tokens), 1), tokens.shape[1] - 1, dtype=np.int64)


def prefill(session: Session, tokens: Tokens, start: int = 0) -> list[int]:
    """Fill the cache with tokens [B, N] from position `start`; return each step's nanoseconds.

    The logits of the last position are the session's afterwards.
    """
    return [
        timed_step(session, part, positions, last_index(part))
        for part, positions in chunks(session, tokens, start)
    ]


def prefill_logits(
    session: Session, tokens: Tokens, start: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Fill the cache from `start` and yield the logits of every position, [B, T, V] a step."""
    for part, positions in chunks(session, tokens, start):
        every = np.tile(np.arange(part.shape[1], dtype=np.int64), (len(part), 1))
        timed_step(session, part, positions, every)
        yield session.logits()


def decode_step(session: Session, tokens: Tokens, position: int) -> int:
    """Feed one token a row, [B, 1], at the given position; return the step's nanoseconds."""
    positions = np.full(tokens.shape, position, dtype=np.int64)
    return timed_step(session, tokens, positions, np.zeros_like(positions))
