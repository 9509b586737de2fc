"""Scores of tasks side by side: a line for each metric, a column for each result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llx.reports.units import plus_minus, significant
from llx.result import Result
from llx.scores import Metric, TaskScore

HEADINGS = ("task", "metric", ">n", ">shots")


class Line(NamedTuple):
    """A metric of a task, asked in one way, and what each result scored by it, if anything."""

    task: str
    metric: str
    documents: str
    shots: str
    scores: list[Metric | None]


def score_lines(results: Sequence[Result]) -> list[Line]:
    """A line for each metric of each task that any of the results was scored on."""
    found: dict[tuple[str, str, str, str], list[Metric | None]] = {}
    for i, result in enumerate(results):
        for _, task, metric in result.scores.metrics() if result.scores else ():
            counts = _count(task.documents), _count(task.fewshot)
            key = (_named(task), metric.name, *counts)
            found.setdefault(key, [None] * len(results))[i] = metric
    return [Line(*key, scores) for key, scores in found.items()]


def score_words(metric: Metric | None) -> str:
    """A score and its standard error."""
    if metric is None:
        return ""
    if metric.stderr is None or metric.stderr != metric.stderr:
        return significant(metric.value)
    return plus_minus(metric.value, metric.stderr)


def score_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows; a task's name stands at its first line."""
    rows, last = [], None
    for line in score_lines(results):
        of = line[:1] + line[2:4]
        task = "" if of == last else line.task
        rows.append([task, *line[1:4], *map(score_words, line.scores)])
        last = of
    return [*HEADINGS, *(f">{label}" for label in labels_of(results))], rows


def labels_of(results: Sequence[Result]) -> list[str]:
    """What tells results apart: engine and precision, and where that does not the artifact too."""
    short = [f"{result.engine} {result.precision}" for result in results]
    if len(set(short)) == len(short):
        return short
    return [f"{words} {result.artifact.name}" for words, result in zip(short, results, strict=True)]


def _named(task: TaskScore) -> str:
    return f"{task.task} v{task.version}" if task.version else task.task


def _count(number: int | None) -> str:
    return "" if number is None else str(number)
