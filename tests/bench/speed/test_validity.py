"""Sessions that cheat, each in its own way, and honest ones that look odd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llx.bench.sessions.fake import FakeSession
from llx.bench.speed.samples import Workload
from tests.bench.synthetic import LIMITS, Clock, TimedSession, measured

EVERY_KIND = Workload(
    prompts=(1, 8, 20), generated=(1, 12), requests=((10, 4),), depths=(0, 11), batches=(1, 3)
)


class StopsEarly(FakeSession):
    """Takes no step after the fourth since the reset."""

    taken = 0

    def enqueue(self, tokens, positions, logit_index):
        self.taken += 1
        if self.taken <= 4:
            super().enqueue(tokens, positions, logit_index)

    def reset(self):
        self.taken = 0
        super().reset()


class OneRowStops(FakeSession):
    """The second row is left out of every step after the first."""

    def enqueue(self, tokens, positions, logit_index):
        before = self.logits()
        super().enqueue(tokens, positions, logit_index)
        if positions[0, 0] > 0:
            self._logits[1] = before[1]


class FewerLogits(FakeSession):
    def logits(self):
        return super().logits()[:, :0]


class AnswersFromMemory(FakeSession):
    """Gives every prompt of a length the answer of the first one."""

    def __init__(self, limits, rows):
        super().__init__(limits, rows)
        self.known = {}

    def enqueue(self, tokens, positions, logit_index):
        super().enqueue(tokens, positions, logit_index)
        self._logits = self.known.setdefault(int(positions[0, -1]), self._logits)


class ResetIsForgotten(FakeSession):
    """What was fed before the reset is attended to after it."""

    def __init__(self, limits, rows):
        super().__init__(limits, rows)
        self.sum = self.count = 0

    def enqueue(self, tokens, positions, logit_index):
        super().enqueue(tokens, positions, logit_index)
        self.sum, self.count = self.sum + tokens.sum(), self.count + tokens.size
        self._logits = self._logits.round() + np.float32(self.sum / self.count**0.5 / 300)


class SkipsThePrompt(FakeSession):
    """Looks at the last token alone."""

    def enqueue(self, tokens, positions, logit_index):
        super().enqueue(tokens, positions, logit_index)
        last = np.take_along_axis(tokens, logit_index, 1)[..., None]
        self._logits = np.sin(last * np.arange(1, self.limits.vocab + 1)).astype(np.float32)


class NotFinite(FakeSession):
    def logits(self):
        return super().logits() * np.float32(np.nan)


class KeepsACache(TimedSession):
    """Takes a hundredth of the time for what it has been fed before."""

    def __init__(self, clock, rows=1):
        super().__init__(clock, iter(()), rows)
        self.fed, self.seen = b"", set()

    def reset(self):
        self.fed = b""
        super().reset()

    def took(self, tokens):
        self.fed += tokens.tobytes()
        known = self.fed in self.seen
        self.seen.add(self.fed)
        return 10 if known else 1000


def rows_of(session_class, workload):
    return measured(lambda rows: session_class(LIMITS, rows), workload)


def test_an_honest_session_is_valid_in_every_kind_of_test():
    rows = rows_of(FakeSession, EVERY_KIND)
    assert len(rows) == 24
    assert not [
        row.invalid_reason for row in rows if "noisy" not in (row.invalid_reason or "noisy")
    ]


@pytest.mark.parametrize("kind", [{"generated": (12,)}, {"requests": ((10, 9),)}])
def test_a_session_that_stops_early_is_invalid(kind):
    (row,) = rows_of(StopsEarly, Workload(**{"prompts": (), "generated": ()} | kind))
    assert not row.valid
    assert "steps left the logits as they were: the session stops early" in row.invalid_reason


def test_a_session_that_stops_for_one_row_is_invalid():
    (row,) = rows_of(OneRowStops, Workload(prompts=(), generated=(5,), batches=(3,)))
    assert "stops early" in row.invalid_reason


def test_a_session_that_gives_fewer_logits_than_asked_is_invalid():
    (row,) = rows_of(FewerLogits, Workload(prompts=(16,), generated=()))
    assert "12 of 12 steps gave other logits than were asked for" in row.invalid_reason


@pytest.mark.parametrize("kind", [{"prompts": (8,)}, {"generated": (5,)}])
def test_a_session_that_reuses_an_answer_is_invalid(kind):
    (row,) = rows_of(AnswersFromMemory, Workload(**{"prompts": (), "generated": ()} | kind))
    assert "different prompts gave the same logits" in row.invalid_reason


@pytest.mark.parametrize("kind", [{"prompts": (8,)}, {"generated": (5,)}])
def test_a_reset_that_does_not_reset_is_invalid(kind):
    (row,) = rows_of(ResetIsForgotten, Workload(**{"prompts": (), "generated": ()} | kind))
    assert "the same prompt gave other logits after a reset" in row.invalid_reason


@pytest.mark.parametrize("kind", [{"prompts": (8,)}, {"generated": (2,), "depths": (16,)}])
def test_a_session_that_skips_the_prompt_is_invalid(kind):
    (row,) = rows_of(SkipsThePrompt, Workload(**{"prompts": (), "generated": ()} | kind))
    assert "the prompt's first half changes no logit" in row.invalid_reason


def test_logits_that_are_not_finite_show_no_work():
    (row,) = rows_of(NotFinite, Workload(prompts=(8,), generated=()))
    assert "logits are not finite" in row.invalid_reason


@pytest.mark.parametrize(
    "kind", [{"prompts": (20,)}, {"generated": (12,)}, {"requests": ((9, 3),)}]
)
def test_a_cache_that_outlives_its_repetition_is_invalid(monkeypatch, kind):
    clock = Clock(monkeypatch)
    workload = Workload(**{"prompts": (), "generated": ()} | kind)
    (row,) = measured(lambda rows: KeepsACache(clock, rows), workload)
    assert "a prompt that was seen before took 1 % of the time" in row.invalid_reason
    assert min(map(min, row.step_ns)) == 1000  # fresh prompts gained nothing by it


def test_one_fast_moment_is_no_cache(monkeypatch):
    clock = Clock(monkeypatch)
    step_ns = itertools.chain([1000] * 6, [10], itertools.repeat(1000))  # the first run again
    workload = Workload(prompts=(8,), generated=())
    (row,) = measured(lambda rows: TimedSession(clock, step_ns, rows), workload)
    assert row.valid, row.invalid_reason


def test_what_is_wrong_is_said_beside_what_else_is_wrong():
    workload = Workload(prompts=(), generated=(12,), repetitions=3, warmup=0)
    (row,) = rows_of(StopsEarly, workload)
    reasons = row.invalid_reason.split("; ")
    assert reasons[:2] == ["3 repetitions, fewer than 5", "no warm-up"]
    assert "stops early" in reasons[2]
