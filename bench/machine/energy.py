"""Energy of what is timed: which source there is, and what it counts inside the timed windows.

A counter (RAPL, NVML) is read before and after each window, and nothing runs inside. Only where
there is none, as on a Jetson, does a thread read the power every tenth of a second: some hundred
microseconds of Python each time, which the files' own latency is not part of. Windows are the timed
steps of each repetition: neither warm-up nor the filling of the cache before them.

Needs the standard library only: it runs on a device too.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llx.bench.clock import now_ns
from llx.conditions import EnergyRecord

MOST_ERROR = 0.1  # a source whose steps are coarser than this for the window measures nothing
LEAST_COVERAGE = 0.9
LEAST_SAMPLES = 10
MOST_WATTS = 100_000.0
IDLE_S = 1.2


@dataclass(frozen=True)
class Missing:
    """Why something cannot be read, and what would change that."""

    reason: str
    remedy: str


class Counter(Protocol):
    """A source that counts energy by itself. `step_s`: how often it counts."""

    source: str
    rail: str
    step_s: float

    def read(self) -> Any:
        """What the counter shows now; None where it cannot be read."""

    def joules(self, before: Any, after: Any, seconds: float, /) -> float | None:
        """Energy between two readings; None where they do not tell."""


class Gauge(Protocol):
    """A source that only tells the power of this moment. `period_s`: how often to ask."""

    source: str
    rail: str
    period_s: float

    def watts(self) -> float | None:
        """The power now; None where it cannot be read."""

    def close(self) -> None:
        """Let go of what it reads from."""


class Meter:
    """Measures windows; this one has no source, and says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    @contextmanager
    def window(self) -> Iterator[None]:
        """What happens inside is measured."""
        yield

    def take(self, tokens: int) -> EnergyRecord:
        """The windows since the last time, which made so many tokens."""
        return EnergyRecord(reason=self._reason, tokens=tokens)

    def measure_idle(self) -> None:
        """See what is used while nothing is run, where that can be seen."""

    def close(self) -> None:
        """Stop measuring."""


class _Measuring(Meter):
    """What meters with a source have in common."""

    def __init__(self, source: str, rail: str) -> None:
        super().__init__("")
        self._source, self._rail = source, rail
        self._idle_watts: float | None = None

    def measure_idle(self) -> None:
        """See what is used while nothing is run."""
        with self.window():
            time.sleep(IDLE_S)
        found = self.take(0)
        if found.joules is not None and found.window:
            self._idle_watts = found.joules / found.window

    def _record(self, tokens: int, found: EnergyRecord) -> EnergyRecord:
        """A reading with its names; one that cannot be is none."""
        found = replace(
            found, source=self._source, rail=self._rail, tokens=tokens, idle_watts=self._idle_watts
        )
        if found.joules is None or found.reason is not None or not found.window:
            return replace(found, joules=None)
        if not 0 <= found.joules <= MOST_WATTS * found.window:
            reason = f"{self._source} told of {found.joules:.3g} J in {found.window:.3g} s"
            return replace(found, joules=None, reason=reason)
        return replace(found, mj_per_token=1e3 * found.joules / tokens if tokens else None)


class CounterMeter(_Measuring):
    """Reads a counter before and after each window."""

    def __init__(self, counter: Counter, now: Callable[[], int] = now_ns) -> None:
        super().__init__(counter.source, counter.rail)
        self._counter, self._now = counter, now
        self._windows: list[tuple[float, float | None]] = []  # seconds, joules

    @contextmanager
    def window(self) -> Iterator[None]:
        """What happens inside is measured."""
        before = self._counter.read()
        start = self._now()
        try:
            yield
        finally:
            seconds = (self._now() - start) / 1e9
            after = self._counter.read()
            read = before is not None and after is not None
            joules = self._counter.joules(before, after, seconds) if read else None
            self._windows.append((seconds, joules))

    def take(self, tokens: int) -> EnergyRecord:
        """The windows since the last time, which made so many tokens."""
        windows, self._windows = self._windows, []
        seconds = sum(each for each, _ in windows)
        told = [joules for _, joules in windows if joules is not None]
        if not windows or len(told) < len(windows):
            unread = f"{self._source} could not be read around every repetition"
            return self._record(tokens, EnergyRecord(window=seconds, reason=unread))
        error = len(windows) * self._counter.step_s / seconds if seconds else 1.0
        reason: str | None = None
        if error > MOST_ERROR:
            reason = (
                f"{len(windows)} × {1e3 * seconds / len(windows):.3g} ms is too short for "
                f"{self._source}, which counts every {1e3 * self._counter.step_s:.3g} ms: "
                "measure longer lengths"
            )
        found = EnergyRecord(
            window=seconds,
            joules=sum(told),
            samples=2 * len(windows),
            coverage=1.0,
            error=error,
            reason=reason,
        )
        return self._record(tokens, found)


class GaugeMeter(_Measuring):
    """Reads the power in a thread, for where nothing counts energy."""

    def __init__(self, gauge: Gauge, now: Callable[[], int] = now_ns) -> None:
        super().__init__(gauge.source, gauge.rail)
        self._gauge, self._now = gauge, now
        self._samples: list[tuple[int, float]] = []
        self._windows: list[tuple[int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(self._gauge.period_s):
            watts = self._gauge.watts()
            if watts is not None and 0 <= watts <= MOST_WATTS:
                self._samples.append((self._now(), watts))

    @contextmanager
    def window(self) -> Iterator[None]:
        """What happens inside is measured."""
        start = self._now()
        try:
            yield
        finally:
            self._windows.append((start, self._now()))

    def take(self, tokens: int) -> EnergyRecord:
        """The windows since the last time, which made so many tokens."""
        time.sleep(2 * self._gauge.period_s)  # for a reading that lies behind the last window
        windows, self._windows = self._windows, []
        samples = list(self._samples)
        del self._samples[: max(0, len(samples) - 2)]  # the thread may have added to it
        return self._record(tokens, integrated(samples, windows, 2.5 * self._gauge.period_s))

    def close(self) -> None:
        """Stop measuring."""
        self._ended.set()
        self._thread.join(timeout=10)
        self._gauge.close()


def integrated(
    samples: Sequence[tuple[int, float]], windows: Sequence[tuple[int, int]], longest_gap_s: float
) -> EnergyRecord:
    """Energy inside windows of nanoseconds: the trapezoids between samples of (nanosecond, watts).

    What lies in gaps longer than the longest is not covered, and counted at the mean of the rest.
    """
    window = sum(end - start for start, end in windows) / 1e9
    joules, covered = 0.0, 0.0
    for (at, watts), (then, watts_then) in itertools.pairwise(samples):
        if not 0 < then - at <= 1e9 * longest_gap_s:
            continue
        slope = (watts_then - watts) / (then - at)
        for start, end in windows:
            left, right = max(at, start), min(then, end)
            if left < right:
                middle = watts + slope * ((left + right) / 2 - at)
                joules += middle * (right - left) / 1e9
                covered += (right - left) / 1e9
    inside = sum(any(start <= at <= end for start, end in windows) for at, _ in samples)
    coverage = min(1.0, covered / window) if window else 0.0
    found = EnergyRecord(window=window, samples=inside, coverage=coverage)
    if coverage < LEAST_COVERAGE:
        return replace(found, reason=f"its readings cover {100 * coverage:.0f} % of {window:.3g} s")
    if inside < LEAST_SAMPLES:
        return replace(
            found,
            reason=f"{inside} readings in {window:.3g} s are fewer than {LEAST_SAMPLES}: "
            "measure longer lengths",
        )
    return replace(found, joules=joules / coverage, error=1 / inside)
