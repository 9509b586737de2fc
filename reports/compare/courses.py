"""The course of each measure in a branch's history: its levels, how far runs lie apart, its steps.

A course is of one measure of one engine, precision, artifact and device: what another machine
measured, or on other tokens, is another course. Its runs are in the order of the branch's commits:
one that was measured again stands beside its first run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np

from llx.reports.compare.gates import USUAL, Gate, Kind, gate_for
from llx.reports.compare.judged import FASTEST, SLOWEST, Judged, by_chance
from llx.reports.history import Entry
from llx.reports.levels import Spread, level_starts, split
from llx.reports.measures import Measure
from llx.result import Result

MOST_RUNS = 500  # of a course: the latest
SAME_TOP1 = "same-top1"
SCORE = "score"
SPEED = "speed"  # the slug of what a test is named for
NAMES = {  # by their slugs, what a gate calls the measures: all but speeds are the same in each run
    SPEED: "{of}",
    "kld": "KLD {of}",
    "ppl-ratio": "PPL ratio {of}",
    "ppl": "PPL {of}",
    SAME_TOP1: "same top-1 {of}",
    SCORE: "score, {of}",
    "size": "artifact bytes",
}


class Series(NamedTuple):
    """Whose runs may be held against one another."""

    engine: str
    precision: str
    artifact: str
    device_fingerprint: str
    threads: int | None

    @classmethod
    def of(cls, one: Entry) -> Series:
        """That of a line."""
        fingerprint = one.device_fingerprint
        return cls(one.engine, one.precision, one.artifact, fingerprint, one.threads)

    @classmethod
    def of_result(cls, one: Result) -> Series:
        """That which a result would be a line of."""
        where = one.environment
        return cls(
            one.engine, one.precision, one.artifact.name, where.device_fingerprint, where.threads
        )


@dataclass(frozen=True)
class Point:
    """A run: what was measured, when, and the number, with its interval where it has one."""

    label: str
    created: str
    value: float
    interval: tuple[float, float] | None = None

    @property
    def half(self) -> float | None:
        """Half of the interval's width."""
        return (self.interval[1] - self.interval[0]) / 2 if self.interval else None


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a level ended: the number before and from a commit on, and by which ratio.

    `after` is the last run before the step: it came with a commit after that one, and not after
    `at`. `ci95` is None where the numbers do not vary.
    """

    course: Course
    after: Point
    at: Point
    old: float
    new: float
    ci95: tuple[float, float] | None

    @property
    def ratio(self) -> float | None:
        """The number from then on by that before."""
        return self.new / self.old if self.old else None

    @property
    def worse(self) -> bool:
        """Whether it was one to the worse."""
        return (self.new < self.old) == self.course.measure.more_is_better


@dataclass(frozen=True, kw_only=True)
class Course:
    """A measure over the commits of a branch. `measure`: the latest, for its name and unit."""

    series: Series
    device: str
    measure: Measure
    points: list[Point]

    @property
    def metric(self) -> str:
        """What a gate calls it, a test for its speed."""
        return NAMES[self.measure.slug].format(of=self.measure.of)

    @property
    def kind(self) -> Kind:
        """What a gate says it is."""
        return "deterministic" if self._is_exact else "wall clock"

    @property
    def _is_exact(self) -> bool:
        return self.measure.slug != SPEED

    @cached_property
    def levels(self) -> list[list[Point]]:
        """The runs of each level, between which nothing changed but by noise."""
        return split(self.points, self._exact_starts() if self._is_exact else self._starts())

    @staticmethod
    def middle(level: Sequence[Point]) -> float:
        """The number of a level: its median."""
        return median(point.value for point in level)

    @property
    def now(self) -> float:
        """The number of the latest level."""
        return self.middle(self.levels[-1])

    @cached_property
    def spread(self) -> Spread | None:
        """How far runs of one level lie apart; None where they do not vary, or are too few."""
        if self._is_exact or not self.of_speeds:
            return None
        return Spread.of([_logs(level) for level in self.levels])

    def moved(self, before: Point, after: Point, gate: Gate) -> Judged:
        """Whether what does not vary is another number, if it is a score beyond chance."""
        half = None
        if self.measure.slug == SCORE and before.half is not None and after.half is not None:
            half = math.hypot(before.half, after.half)
        return by_chance(before.value, after.value, half, gate, self.measure.more_is_better)

    def steps(self) -> Iterator[Step]:
        """Where the course went to another level: by more than the levels may be off."""
        for before, after in zip(self.levels, self.levels[1:], strict=False):
            old, new = self.middle(before), self.middle(after)
            half = self.spread.half_width_of_medians(len(before), len(after)) if self.spread else 0
            if half and abs(math.log(new / old)) < half:
                continue
            yield Step(
                course=self,
                after=before[-1],
                at=after[0],
                old=old,
                new=new,
                ci95=(new / old / math.exp(half), new / old * math.exp(half)) if half else None,
            )

    @cached_property
    def of_speeds(self) -> bool:
        """Whether its numbers can be: a line is anybody's."""
        return all(SLOWEST <= point.value <= FASTEST for point in self.points)

    def _starts(self) -> Iterator[int]:
        """By noise: of each commit the median of its runs."""
        commits = [0]
        for i, (before, point) in enumerate(zip(self.points, self.points[1:], strict=False), 1):
            if not point.label or point.label != before.label:
                commits.append(i)
        if not self.of_speeds:
            yield 0
            return
        runs = split(_logs(self.points), commits)
        for start in level_starts(np.array([np.median(one) for one in runs])):
            yield commits[start]

    def _exact_starts(self) -> Iterator[int]:
        """By what fails a comparison: a change of what does not vary."""
        gate = gate_for(USUAL, self.metric, self.kind, self.series.engine)
        assert gate is not None
        first = self.points[0]
        yield 0
        for i, point in enumerate(self.points[1:], 1):
            if self.moved(first, point, gate).verdict in ("regressed", "improved"):
                first = point
                yield i


def courses_of(entries: Sequence[Entry]) -> list[Course]:
    """Every course of what a gate has a name for, in the order in which each began."""
    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        first.setdefault(entry.label, i)
    # A commit that was measured again stands beside its first run.
    numbered = enumerate(entries)
    order = sorted(
        numbered, key=lambda one: (first[one[1].label] if one[1].label else one[0], one[0])
    )
    found: dict[tuple[Series, str, str, str], list[tuple[Entry, Measure]]] = {}
    for _, entry in order:
        for measure in (one for one in entry.measures if one.slug in NAMES):
            key = (Series.of(entry), measure.of, measure.slug, measure.protocol)
            found.setdefault(key, []).append((entry, measure))
    return [
        Course(
            series=key[0],
            device=runs[-1][0].device,
            measure=runs[-1][1],
            points=[
                point_of(measure, entry.created, entry.label)
                for entry, measure in runs[-MOST_RUNS:]
            ],
        )
        for key, runs in found.items()
    ]


def followed_steps(courses: Sequence[Course]) -> list[Step]:
    """The steps of all courses in order of time."""
    steps = [step for course in courses for step in course.steps()]
    return sorted(steps, key=lambda step: step.at.created)


def point_of(measure: Measure, created: str, label: str = "") -> Point:
    """A measure as a run of its course, in the units that gates have, which are of shares."""
    scale = 0.01 if measure.slug == SAME_TOP1 else 1.0
    interval = measure.interval and (measure.interval[0] * scale, measure.interval[1] * scale)
    return Point(label, created, measure.value * scale, interval)


def _logs(points: Sequence[Point]) -> np.ndarray:
    return np.log([point.value for point in points])
