"""`Scores`: what tasks of lm-evaluation-harness say of an engine over an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one task; `filter` is how answers were cut out of what was generated.

    `stderr` is None where lm-eval has no standard error for the metric.
    """

    metric: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool | None

    @property
    def name(self) -> str:
        """The metric, and the filter where there is one."""
        return self.metric if self.filter == "none" else f"{self.metric} ({self.filter})"


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A task, or a group of them, with the version of its definition.

    `documents` were scored, `of` so many; `fewshot` examples stood before each.
    """

    task: str
    group: bool
    version: str | None
    fewshot: int | None
    documents: int | None
    of: int | None
    metrics: list[Metric]


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What decides the numbers, beside engine, artifact and tasks. None is the task's own."""

    limit: int | None
    num_fewshot: int | None
    batch: int
    capacity: int  # positions: longer contexts are cut from the left
    chat_template: bool
    date: str | None = None  # YYYY-MM-DD, that the chat template was told
    fewshot_as_multiturn: bool
    allow_code: bool
    seed: int
    fewshot_seed: int
    bootstrap: int  # resamples, where a standard error has no formula


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was scored, by which settings and which version of lm-eval."""

    tasks: list[TaskScore]
    settings: EvalSettings
    lm_eval: str

    def metrics(self) -> Iterator[tuple[str, TaskScore, Metric]]:
        """Each metric of each task, by the name that tells it from all others."""
        for task in self.tasks:
            for metric in task.metrics:
                yield f"{task.task} {metric.name}", task, metric
