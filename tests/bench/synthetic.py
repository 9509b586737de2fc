"""A session whose steps take the time that a test says, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llx.bench import clock
from llx.bench.sessions.fake import FakeSession
from llx.bench.speed.samples import Workload
from llx.graphs.contract import Limits
from llx.precision import PRECISIONS
from tests.checkpoints import TINY
from tests.rows import measure

LIMITS = Limits(capacity=96, max_new_tokens=8, max_rows=4, vocab=TINY.vocab)


class Clock:
    """Stands until a step moves it."""

    now = 0

    def __init__(self, monkeypatch) -> None:
        monkeypatch.setattr(clock, "now_ns", lambda: self.now)


class TimedSession(FakeSession):
    """An honest session; each step takes the next of the given nanoseconds, and then the last."""

    def __init__(self, clock: Clock, step_ns: Iterator[int], rows: int = 1) -> None:
        super().__init__(LIMITS, rows)
        self.clock, self._step_ns, self._last_ns = clock, iter(step_ns), 1

    def enqueue(self, tokens, positions, logit_index) -> None:
        super().enqueue(tokens, positions, logit_index)
        self._last_ns = self.took(tokens)
        self.clock.now += self._last_ns

    def took(self, tokens) -> int:
        return next(self._step_ns, self._last_ns)


def measured(open_session: Callable[[int], FakeSession], workload: Workload):
    return measure(open_session, workload, TINY, PRECISIONS["fp32"])
