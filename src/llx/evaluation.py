"""`Evaluation` (`llx.eval/1`): what one engine scored on tasks of lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from llx.result import ArtifactRecord


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
    fewshot_as_multiturn: bool
    allow_code: bool
    seed: int
    fewshot_seed: int
    bootstrap: int  # resamples, where a standard error has no formula


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `llx eval`."""

    schema: Literal["llx.eval/1"] = "llx.eval/1"
    llx: str
    created: str  # ISO 8601, UTC
    command: str
    engine: str
    precision: str
    artifact: ArtifactRecord
    settings: EvalSettings
    versions: dict[str, str]
    details: dict[str, str | int | float | None]  # of the engine
    tasks: list[TaskScore]
    requests: dict[str, int]
    truncated: int  # requests whose context was cut from the left
    seconds: float


def encode_evaluation(evaluation: Evaluation) -> bytes:
    """An evaluation as JSON."""
    return msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n"
