"""Results held against a branch's history: separate runs, judged by how far such runs lie apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from llx.reports.compare.change import Change, Judging
from llx.reports.compare.courses import SPEED, Course, Series, courses_of, point_of
from llx.reports.compare.gates import Gate
from llx.reports.compare.judged import Judge, Judged, always, by_spread, invalid_row
from llx.reports.history import Entry, hash_of
from llx.reports.levels import Spread
from llx.reports.measures import Measure, measures
from llx.result import Result, SpeedRow
from llx.statistics import Comparison


class Past:
    """The courses of a history, without the runs that are judged by it."""

    def __init__(self, entries: Sequence[Entry], judged: Sequence[Result] = ()) -> None:
        own = {hash_of(result) for result in judged}
        self.entries = [entry for entry in entries if entry.result not in own]
        self._courses: dict[Series, list[Course]] = {}
        for course in courses_of(self.entries):
            self._courses.setdefault(course.series, []).append(course)

    def courses(self, result: Result) -> list[Course]:
        """What the history has of a result's engine, artifact and device."""
        return self._courses.get(Series.of_result(result), [])

    def spread(self, result: Result, test: str) -> Spread | None:
        """How far runs of a test lie apart; None where the history does not say."""
        of_test = (one for one in self.courses(result) if one.measure.slug == SPEED)
        return next((one.spread for one in of_test if one.measure.of == test), None)

    def last(self, result: Result) -> Entry | None:
        """The latest line of a result's engine, artifact and device."""
        series = Series.of_result(result)
        return next((one for one in reversed(self.entries) if Series.of(one) == series), None)


class AgainstPast(Judging):
    """A result, and the courses of the history that it would go on with."""

    def __init__(self, after: Result, past: Past, gates: Sequence[Gate]) -> None:
        super().__init__(after, gates)
        self._now = {(one.of, one.slug): one for one in measures(after)}
        self._rows = {row.name: row for row in after.speed}
        self._courses = past.courses(after)

    def changes(self) -> Iterator[Change]:
        """Every measure that the history has, by the name that gates have for it."""
        latest = {(one.measure.of, one.measure.slug): one for one in self._courses}
        for (of, slug), course in latest.items():
            now = self._now.get((of, slug))
            if slug == SPEED:
                yield self._speed(course, self._rows.get(of))
            else:
                yield self._exact(self._of_the_same(course, now), now)

    def _of_the_same(self, latest: Course, now: Measure | None) -> Course:
        """The course that is on the same tokens, or else the latest, which is not comparable."""
        of = (latest.measure.of, latest.measure.slug)
        alike = (
            one
            for one in self._courses
            if now
            and (one.measure.of, one.measure.slug, one.measure.protocol) == (*of, now.protocol)
        )
        return next(alike, latest)

    def _speed(self, course: Course, row: SpeedRow | None) -> Change:
        judge = self._by_runs(course, row) if row else always(self.missing(course.metric))
        unit, numbers = course.measure.unit, (course.now, row.speed if row else None)
        return self.change_of(course.metric, "wall clock", unit, numbers, judge, invalid_row(row))

    def _by_runs(self, course: Course, row: SpeedRow) -> Judge:
        if invalid := invalid_row(row):
            return always(Judged("inconclusive", invalid))
        if not course.of_speeds:
            return always(Judged("inconclusive", "INVALID: the history's numbers are no speeds"))
        low, high = (end / course.now for end in row.ci95)
        found = Comparison(
            ratio=row.speed / course.now, low=low, high=high, method=f"{row.ci_method}, of this run"
        )
        return by_spread(course.spread, found, len(course.levels[-1]))

    def _exact(self, course: Course, now: Measure | None) -> Change:
        # The level's first run, so that many small losses add up to one.
        before, after = course.levels[-1][0], point_of(now, self._after.created) if now else None
        unlike = now is not None and now.protocol != course.measure.protocol
        return self.deterministic(
            course.metric,
            "B" if course.measure.unit == "bytes" else "",
            (before.value, after.value if after else None),
            course.measure.more_is_better,
            "judged on other tokens or documents than the history's" if unlike else None,
            missing=self.missing(course.metric),
            judge=partial(course.moved, before, after) if after else None,
        )
