"""`EvalRequest` and `Evaluation` (`llx.eval/1`): what is asked of an engine, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from llx.errors import BadInput, printable
from llx.result import ArtifactRecord
from llx.templates import day_of

MOST_DOCUMENTS = 10**9
CHAT_OPTION = "--apply-chat-template"


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What is to be evaluated. None leaves it to the task."""

    tasks: tuple[str, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    batch: int = 1
    include_path: Path | None = None
    chat: bool = False
    multiturn: bool | None = None  # with a chat template by default, as lm-eval has it
    date: str | None = None  # YYYY-MM-DD, told to the chat template; today's where it is None
    allow_code: bool = False
    command: str = "llx eval"

    def __post_init__(self) -> None:
        for option, count in (("--limit", self.limit), ("--num-fewshot", self.num_fewshot)):
            if count is not None and not 0 <= count <= MOST_DOCUMENTS:
                raise BadInput(
                    f"{option} {count} is outside 0…{MOST_DOCUMENTS}", "give fewer, or leave it out"
                )
        if self.date is not None and not self.chat:
            raise BadInput(
                "--date is what a chat template is told", f"add {CHAT_OPTION}, or leave it out"
            )
        day_of(self.date)
        if self.multiturn and not self.chat:
            raise BadInput(
                "--fewshot-as-multiturn needs a chat template",
                f"add {CHAT_OPTION}, or leave it out",
            )

    @property
    def turns(self) -> bool:
        """Whether examples are turns of the chat."""
        return self.chat if self.multiturn is None else self.multiturn


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
    date: str | None = None  # YYYY-MM-DD, that the chat template was told
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
    without_system: int = 0  # conversations whose system turn the chat template refused
    seconds: float

    def __repr__(self) -> str:
        """What was scored, in a line."""
        of = f"{self.artifact.name}, {self.precision}, {self.engine}"
        tasks = ", ".join(task.task for task in self.tasks[:8])
        more = f" and {len(self.tasks) - 8} more" if len(self.tasks) > 8 else ""
        return printable(f"<llx.Evaluation: {of}: {tasks}{more}>")


def encode_evaluation(evaluation: Evaluation) -> bytes:
    """An evaluation as JSON."""
    return msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n"
