"""Samples: the tests of a workload, run on a session. What they show is `llx.bench.speed.rows`'s.

Like a session of TensorRT, this runs on the device too: numpy will do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from llx.bench.clock import timed_step
from llx.bench.session import Session, Tokens
from llx.bench.speed import steps
from llx.bench.speed.validity import REMEMBERED, Print, Witness
from llx.errors import BadInput
from llx.graphs.contract import Limits
from llx.progress import Progress, silent

OpenSession = Callable[[int], Session]
"""Opens a session of an engine for the given number of rows."""

AGAIN = 8  # decode steps that are run again to see whether the session is honest


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to measure: a full cross product of lengths, depths and batch sizes.

    `requests`: pairs of input and output length. `until`: the share of the speed that the interval
    may reach to either side; repetitions go on, at most `most_repetitions`, while it is wider. In
    turns with another they go on while there is no verdict.
    `quick`: the lengths are too short to publish.
    """

    prompts: tuple[int, ...] = (512,)
    generated: tuple[int, ...] = (128,)
    requests: tuple[tuple[int, int], ...] = ()
    depths: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (1,)
    repetitions: int = 5
    warmup: int = 1
    seed: int = 0
    until: float | None = None
    most_repetitions: int = 30
    quick: bool = False

    def __post_init__(self) -> None:
        least = {
            "a number of repetitions": (1, (self.repetitions, self.most_repetitions)),
            "a number of warm-ups": (0, (self.warmup,)),
            "a batch": (1, self.batches),
            "a depth": (0, self.depths),
            "a seed": (0, (self.seed,)),
            "a length": (1, (*self.prompts, *self.generated, *itertools.chain(*self.requests))),
        }
        for what, (lowest, values) in least.items():
            if any(value < lowest for value in values):
                raise BadInput(
                    f"{what} of {min(values)} is below {lowest}", f"give {lowest} or more"
                )

    def tests(self) -> Iterator[SpeedTest]:
        """Every test, batch by batch."""
        shapes = [
            *((length, 0) for length in self.prompts),
            *((0, length) for length in self.generated),
            *self.requests,
        ]
        for batch, depth in itertools.product(self.batches, self.depths):
            for isl, osl in shapes:
                yield SpeedTest(isl=isl, osl=osl, depth=depth, batch=batch)

    def looks(self) -> list[int]:
        """After how many repetitions to ask whether they are enough: few times, each twice as many.

        Every look at the interval is one more chance to stop at a narrow one that is wrong.
        """
        if self.until is None:
            return [self.repetitions]
        doubled = (self.repetitions << i for i in itertools.count())
        fewer = itertools.takewhile(lambda count: count < self.most_repetitions, doubled)
        return [*fewer, self.most_repetitions]

    def require_fit(
        self,
        limits: Limits,
        of: str = "artifact",
        make: str = "export",
        context: int | None = None,
    ) -> None:
        """Raise `BadInput` where there is no test, or one does not fit the limits.

        `of` says whose they are, `make` what makes others; `context`: the positions that the model
        knows, beyond which nothing does.
        """
        if not self.prompts and not self.generated and not self.requests:
            raise BadInput("there is nothing to measure", "give -p or -n a length above 0")
        for test in self.tests():
            needed = test.depth + test.fed
            if needed > limits.capacity:
                larger = context is None or needed <= context
                raise BadInput(
                    f"{test.name} fills {needed} positions and the cache holds {limits.capacity}",
                    f"shorten it, or {make} with --context {needed} or more"
                    if larger
                    else f"shorten it: the model itself knows {context} positions, and no more",
                )
            if test.batch > limits.max_rows:
                raise BadInput(
                    f"batch {test.batch} is over the {of}'s {limits.max_rows} rows",
                    f"choose -b {limits.max_rows} or less",
                )


@dataclass(frozen=True, kw_only=True)
class SpeedTest:
    """One measurement, after `depth` tokens: `isl` tokens prefilled, then `osl` generated.

    A request has both: its first output token is the prefill's, each other takes a decode step.
    """

    isl: int
    osl: int
    depth: int
    batch: int

    @property
    def name(self) -> str:
        """The field's name for it: pp512, tg128, req512:128, tg128 @ d4096."""
        depth = f" @ d{self.depth}" if self.depth else ""
        if not self.osl:
            return f"pp{self.isl}{depth}"
        return f"req{self.isl}:{self.osl}{depth}" if self.isl else f"tg{self.osl}{depth}"

    @property
    def decode_steps(self) -> int:
        """Steps of one token after the prefill."""
        return self.osl - bool(self.isl and self.osl)

    @property
    def fed(self) -> int:
        """Tokens that enter the session in the timed region."""
        return self.isl + self.decode_steps

    @property
    def counted(self) -> int:
        """Tokens whose number, divided by the time, is the speed: output where there is any."""
        return self.osl or self.isl

    def tokens(self, repetitions: int) -> int:
        """Tokens that so many repetitions generate, or prefill."""
        return self.batch * self.counted * repetitions

    def steps(self, limits: Limits) -> int:
        """How many steps a repetition has."""
        return -(-self.isl // limits.max_new_tokens) + self.decode_steps


@dataclass(frozen=True)
class Samples:
    """What a test gave: nanoseconds of each step of each repetition, and what is wrong with them.

    `read`: positions of the cache that each step reads, where it reads more than the filled ones.
    """

    test: SpeedTest
    step_ns: list[list[int]]
    read: int | None
    faults: list[str]

    @property
    def tokens(self) -> int:
        """Tokens that all repetitions generated, or prefilled."""
        return self.test.tokens(len(self.step_ns))


def all_samples(found: list[Samples]) -> Samples:
    """The samples of several processes that ran one test, in their order, as one."""
    first = found[0]
    return Samples(
        first.test,
        [run for one in found for run in one.step_ns],
        first.read,
        list(dict.fromkeys(fault for one in found for fault in one.faults)),
    )


Window = Callable[[], AbstractContextManager[None]]
"""What is entered around the timed steps of each repetition that counts."""
Turn = Callable[[], AbstractContextManager[None]]
"""The right to run a repetition, where another session is measured in turns with this one."""
Enough = Callable[[SpeedTest, list[list[int]]], bool]
"""Whether so many repetitions will do; asked at the looks that the workload plans."""


def samples(
    open_session: OpenSession,
    workload: Workload,
    progress: Progress = silent,
    before_close: Callable[[Session], None] = lambda _: None,
    enough: Enough = lambda test, step_ns: True,
    only: int | None = None,
    turn: Turn = nullcontext,
    window: Window = nullcontext,
) -> Iterator[Samples]:
    """Run every test of a workload, or `only` one of them, each on tokens of its own.

    A session is opened once for each batch size, and given to `before_close`. Each repetition is
    run within a `turn`, and what is timed of those that count lies in a `window`.
    """
    tests = [(i, test) for i, test in enumerate(workload.tests()) if only in (None, i)]
    for batch, of_batch in itertools.groupby(tests, key=lambda test: test[1].batch):
        session = open_session(batch)
        for index, test in of_batch:
            rng = np.random.default_rng((workload.seed, index))
            yield _Bench(session, test, rng, window).repeat(workload, progress, enough, turn)
        before_close(session)
        session.close()


class _Bench:
    """One test on one session."""

    def __init__(
        self, session: Session, test: SpeedTest, rng: np.random.Generator, window: Window
    ) -> None:
        self._session, self._test, self._rng, self._window = session, test, rng, window
        self._witness = Witness(session)
        # Enough of a repetition to see whether it comes out the same again.
        self._short = 1 if test.isl else min(AGAIN, test.decode_steps)

    def repeat(self, workload: Workload, progress: Progress, enough: Enough, turn: Turn) -> Samples:
        """Warm up, repeat until there are enough, and see whether the session was honest."""
        test, looks = self._test, workload.looks()
        total = workload.warmup + looks[-1]
        step_ns: list[list[int]] = []
        for repetition in range(total):
            progress(test.name, repetition, total, "run")
            tokens = self._fresh()
            counts = repetition >= workload.warmup
            with turn():
                nanoseconds, first = self._run(
                    tokens, window=self._window if counts else nullcontext
                )
            if counts:
                step_ns.append(nanoseconds)
                if len(step_ns) in looks and enough(test, step_ns):
                    break
        progress(test.name, total, total, "run")
        if first is not None:
            with turn():
                self._audit(tokens, first, min(sum(run[: self._short]) for run in step_ns))
        read = self._session.limits.capacity if self._session.reads_capacity else None
        return Samples(test, step_ns, read, self._witness.faults)

    def _fresh(self) -> Tokens:
        shape = (self._test.batch, self._test.depth + self._test.fed)
        return self._rng.integers(0, self._session.limits.vocab, shape, dtype=np.int64)

    def _run(
        self, tokens: Tokens, most: int | None = None, window: Window = nullcontext
    ) -> tuple[list[int], Print | None]:
        """One repetition from an empty cache, or its first steps: the nanoseconds of each.

        Also the logits of the step that ends the part which is run again.
        """
        self._session.reset()
        if self._test.depth:
            steps.prefill(self._session, tokens[:, : self._test.depth])
        self._witness.begin()
        nanoseconds: list[int] = []
        seen = None
        with window():
            for part, positions in itertools.islice(self._steps(tokens), most):
                index = steps.last_index(part)
                nanoseconds.append(timed_step(self._session, part, positions, index))
                print_ = self._witness.look(part)
                if len(nanoseconds) == self._short:
                    seen = print_
        if most is None:
            self._witness.end(tokens)
        return nanoseconds, seen

    def _steps(self, tokens: Tokens) -> Iterator[tuple[Tokens, Tokens]]:
        """Tokens and positions of each step that is timed."""
        depth, prompt_end = self._test.depth, self._test.depth + self._test.isl
        if self._test.isl:
            yield from steps.chunks(self._session, tokens[:, depth:prompt_end], depth)
        for at in range(prompt_end, tokens.shape[1]):
            part = np.ascontiguousarray(tokens[:, at : at + 1])
            yield part, np.full(part.shape, at, dtype=np.int64)

    def _audit(self, tokens: Tokens, first: Print, fresh_ns: int) -> None:
        """Run the last prompt again, and one that begins otherwise. Nothing of it is a sample.

        A time that looks remembered must do so twice, and against a fresh prompt beside it.
        """
        nanoseconds, again = self._run(tokens, self._short)
        self._witness.same_prompt(first, again)
        if sum(nanoseconds) < REMEMBERED * fresh_ns:
            beside_ns = sum(self._run(self._fresh(), self._short)[0])
            twice_ns = sum(self._run(tokens, self._short)[0])
            self._witness.same_time(min(fresh_ns, beside_ns), max(sum(nanoseconds), twice_ns))
        shown = next(itertools.islice(self._steps(tokens), self._short - 1, None))[1][0, -1] + 1
        if shown > 1:
            vocab = self._session.limits.vocab
            other = tokens.copy()
            half = (len(other), int(shown) // 2)
            other[:, : half[1]] += self._rng.integers(1, vocab, half, dtype=np.int64)
            self._witness.other_beginning(first, self._run(other % vocab, self._short)[1])
