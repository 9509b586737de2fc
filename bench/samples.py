"""Samples: the tests of a workload, run on a session. What they show is `llx.bench.speed`'s.

Like a session of TensorRT, this runs on the device too: numpy will do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from llx.bench import steps
from llx.bench.sessions.base import Session
from llx.errors import BadInput
from llx.graphs.contract import Limits
from llx.progress import Progress, silent

OpenSession = Callable[[int], Session]
"""Opens a session of an engine for the given number of rows."""

Window = Callable[[], AbstractContextManager[None]]
"""What is entered around the timed steps of each repetition that counts."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to measure: a full cross product of lengths, depths and batch sizes."""

    prompts: tuple[int, ...] = (512,)
    generated: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (1,)
    repetitions: int = 5
    warmup: int = 1
    seed: int = 0

    def tests(self) -> Iterator[SpeedTest]:
        """Every test, batch by batch."""
        for batch, depth in itertools.product(self.batches, self.depths):
            for length in self.prompts:
                yield SpeedTest(prefill=True, length=length, depth=depth, batch=batch)
            for length in self.generated:
                yield SpeedTest(prefill=False, length=length, depth=depth, batch=batch)

    def require_fit(self, limits: Limits, of: str = "artifact", make: str = "export") -> None:
        """Raise `BadInput` where there is no test, or one does not fit the limits.

        `of` says whose they are, `make` what makes others.
        """
        if not self.prompts and not self.generated:
            raise BadInput("there is nothing to measure", "give -p or -n a length above 0")
        for test in self.tests():
            needed = test.depth + test.length
            if needed > limits.capacity:
                raise BadInput(
                    f"{test.name} fills {needed} positions and the cache holds {limits.capacity}",
                    f"shorten it, or {make} with --context {needed} or more",
                )
            if test.batch > limits.max_rows:
                raise BadInput(
                    f"batch {test.batch} is over the {of}'s {limits.max_rows} rows",
                    f"choose -b {limits.max_rows} or less",
                )


@dataclass(frozen=True, kw_only=True)
class SpeedTest:
    """One measurement: `length` tokens prefilled, or generated one by one, after `depth` others."""

    prefill: bool
    length: int
    depth: int
    batch: int

    def tokens(self, repetitions: int) -> int:
        """Tokens that so many repetitions generate, or prefill."""
        return self.batch * self.length * repetitions

    @property
    def name(self) -> str:
        """The field's name for it: pp512, tg128, tg128 @ d4096."""
        depth = f" @ d{self.depth}" if self.depth else ""
        return f"{'pp' if self.prefill else 'tg'}{self.length}{depth}"


def samples(
    open_session: OpenSession,
    workload: Workload,
    progress: Progress = silent,
    before_close: Callable[[Session], None] = lambda _: None,
    window: Window = nullcontext,
) -> Iterator[tuple[SpeedTest, list[list[int]], int | None]]:
    """Run every test of a workload: test, nanoseconds of each step of each repetition, and `read`.

    `read`: positions of the cache that each step reads, where it reads more than the filled ones.
    A session is opened once for each batch size, and given to `before_close`. Each repetition that
    counts, without what fills the cache before, lies in a `window`.
    """
    for batch, tests in itertools.groupby(workload.tests(), key=lambda test: test.batch):
        session = open_session(batch)
        for test in tests:
            read = session.limits.capacity if session.reads_capacity else None
            yield test, _repeat(session, test, workload, progress, window), read
        before_close(session)
        session.close()


def _repeat(
    session: Session, test: SpeedTest, workload: Workload, progress: Progress, window: Window
) -> list[list[int]]:
    rng = np.random.default_rng(workload.seed)
    total = workload.warmup + workload.repetitions
    step_ns = []
    for repetition in range(total):
        progress(test.name, repetition, total, "run")
        counts = repetition >= workload.warmup
        nanoseconds = _run_once(session, test, rng, window if counts else nullcontext)
        if counts:
            step_ns.append(nanoseconds)
    progress(test.name, total, total, "run")
    return step_ns


def _run_once(
    session: Session, test: SpeedTest, rng: np.random.Generator, window: Window
) -> list[int]:
    """One repetition from an empty cache, on fresh random tokens; each step's nanoseconds."""
    vocab = session.limits.vocab
    tokens = rng.integers(0, vocab, (test.batch, test.depth + test.length), dtype=np.int64)
    session.reset()
    if test.depth:
        steps.prefill(session, tokens[:, : test.depth])
    rest = tokens[:, test.depth :]
    with window():
        if test.prefill:
            return steps.prefill(session, rest, test.depth)
        return [
            steps.decode_step(session, np.ascontiguousarray(rest[:, i : i + 1]), test.depth + i)
            for i in range(test.length)
        ]
