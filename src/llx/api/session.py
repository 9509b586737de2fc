"""An artifact's engine, step by step: tokens in, logits out."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llx.api.engines import require_intact
from llx.arguments import fits
from llx.bench.session import Memory, Session
from llx.bench.sessions import Built, engine_named
from llx.bench.speed.steps import prefill, prefill_logits
from llx.errors import BadInput
from llx.typed import shown

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.graphs.contract import Limits


class OpenSession:
    """An engine that is open, with its KV cache. It remembers how many positions are filled.

    B rows advance together. Use it as a context manager, or `close` it.
    """

    def __init__(self, session: Session) -> None:
        self._open: Session | None = session
        self._filled = 0

    def __repr__(self) -> str:
        if self._open is None:
            return "<llx.OpenSession: closed>"
        limits = self.limits
        return (
            f"<llx.OpenSession: {self._open.rows} rows, {self._filled} of {limits.capacity} "
            "positions filled>"
        )

    @property
    def _session(self) -> Session:
        if self._open is None:
            raise BadInput("the session is closed", "open another: artifact.session(engine)")
        return self._open

    def __enter__(self) -> OpenSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def limits(self) -> Limits:
        """Cache capacity, most new tokens and rows of a step, and the vocabulary's size."""
        return self._session.limits

    @property
    def filled(self) -> int:
        """Positions that the cache holds, P."""
        return self._filled

    def step(self, tokens: ArrayLike, *, every: bool = False) -> NDArray[np.float32]:
        """Feed the next tokens and return logits.

        Args:
            tokens: Integers, [T] or [B, T]. More than a step takes are cut into several.
            every: The logits of every position, not of the last alone.

        Returns:
            float32 [B, V], or [B, T, V] with `every`; B is 1 where `tokens` is [T]. A copy.

        Raises:
            BadInput: Tokens that are no integers, of no such shape, unknown to the vocabulary, or
                more than the cache has room for.

        """
        if not fits(every, bool):
            raise BadInput(f"OpenSession.step: every is {shown(every)}", "give True or False")
        try:
            fed = np.asarray(tokens)
        except ValueError:  # rows of several lengths
            raise BadInput(
                "the rows of tokens are not of one length", "give [T] or [B, T]"
            ) from None
        if fed.dtype.kind not in "iu" or fed.ndim not in (1, 2) or not fed.size:
            raise BadInput(
                f"tokens of dtype {fed.dtype} and shape {fed.shape} are no step",
                "give integers, [T] or [B, T]",
            )
        fed = np.atleast_2d(fed).astype(np.int64)
        rows, count = fed.shape
        if rows != self._session.rows:
            raise BadInput(
                f"the session has {self._session.rows} rows, and {rows} were fed",
                "open it with as many: session(engine, rows=…)",
            )
        unknown = fed[(fed < 0) | (fed >= self.limits.vocab)]
        if unknown.size:
            raise BadInput(
                f"token {unknown[0]} is outside 0…{self.limits.vocab - 1}",
                "feed ids of the artifact's own tokenizer",
            )
        if self._filled + count > self.limits.capacity:
            raise BadInput(
                f"{self._filled} positions are filled, and {count} more do not fit into "
                f"{self.limits.capacity}",
                "reset the session, or export with a larger context",
            )
        if every:
            parts = [part.copy() for part in prefill_logits(self._session, fed, self._filled)]
            logits = np.concatenate(parts, axis=1)
        else:
            prefill(self._session, fed, self._filled)
            logits = self._session.logits()[:, -1].copy()
        self._filled += count
        return logits

    def reset(self) -> None:
        """Forget the cache: the next step starts at position 0."""
        self._session.reset()
        self._filled = 0

    def memory(self) -> Memory:
        """Bytes that the engine holds."""
        return self._session.memory()

    def close(self) -> None:
        """Let go of the engine and its cache; again it does nothing."""
        if self._open is not None:
            session, self._open = self._open, None
            session.close()


def open_session(
    artifact: Artifact, engine: str = "ort", rows: int = 1, trust_engine: bool = False
) -> OpenSession:
    """Open an engine over an artifact; see `Artifact.session`."""
    chosen, built = engine_named(engine), Built(trust=trust_engine)
    chosen.require()
    require_intact(artifact, [engine])
    most = chosen.limits(artifact, rows, built).max_rows
    if not 1 <= rows <= most:
        raise BadInput(f"{rows} rows are outside 1…{most}", f"choose at most {most} rows")
    session = chosen.open(artifact, rows, built)
    session.reset()
    return OpenSession(session)
