"""`EvalRequest` and `Evaluation` (`llx.eval/1`): what is asked of an engine, and what it scored.

Beside what `llx bench` measured, its scores are a part of a `Result`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from llx.conditions import NOT_MEASURED
from llx.errors import BadInput, printable
from llx.result import ArtifactRecord, EnvironmentRecord, Result, read_results
from llx.scores import EvalSettings, Scores, TaskScore
from llx.templates import day_of
from llx.typed import refuse_newer

MOST_DOCUMENTS = 10**9
UNKNOWN = EnvironmentRecord(
    device=NOT_MEASURED,
    device_fingerprint=NOT_MEASURED,
    os=NOT_MEASURED,
    python=NOT_MEASURED,
    versions={},
    threads=None,
    clocks=NOT_MEASURED,
    power_mode=NOT_MEASURED,
    load_before=None,
    load_after=None,
)
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
    log_samples: Path | None = None
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
    details: dict[str, str | bool | int | float | None]  # of the engine
    tasks: list[TaskScore]
    requests: dict[str, int]
    truncated: int  # requests whose context was cut from the left
    without_system: int = 0  # conversations whose system turn the chat template refused
    seconds: float
    environment: EnvironmentRecord | None = None  # older ones have none

    def as_result(self) -> Result:
        """The scores as a result that has nothing else."""
        return Result(
            llx=self.llx,
            created=self.created,
            command=self.command,
            engine=self.engine,
            precision=self.precision,
            dialect=None,
            artifact=self.artifact,
            environment=self.environment or UNKNOWN,
            scores=Scores(
                tasks=self.tasks,
                settings=self.settings,
                lm_eval=self.versions.get("lm-eval", ""),
            ),
        )

    def __repr__(self) -> str:
        """What was scored, in a line."""
        of = f"{self.artifact.name}, {self.precision}, {self.engine}"
        tasks = ", ".join(task.task for task in self.tasks[:8])
        more = f" and {len(self.tasks) - 8} more" if len(self.tasks) > 8 else ""
        return printable(f"<llx.Evaluation: {of}: {tasks}{more}>")


def encode_evaluations(evaluations: list[Evaluation]) -> bytes:
    """One evaluation as JSON, or several as a list."""
    found: object = evaluations[0] if len(evaluations) == 1 else evaluations
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


class _Peek(msgspec.Struct):
    schema: str = ""


def read_measured(path: Path) -> list[Result]:
    """Results of a file of `llx bench -o json`, or the scores in one of `llx eval -o json`.

    Raises `BadInput` where it is neither.
    """
    try:
        data = path.read_bytes()
        peeked = msgspec.json.decode(data, type=list[_Peek] | _Peek)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_results(path)
    first = peeked[0] if isinstance(peeked, list) and peeked else peeked
    if not isinstance(first, _Peek) or not first.schema.startswith("llx.eval/"):
        return read_results(path)
    refuse_newer(path, data, "llx.eval")
    try:
        found = msgspec.json.decode(data, type=list[Evaluation] | Evaluation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"{path} is no llx.eval/1 ({error})", "write one with `llx eval -o json > eval.json`"
        ) from None
    return [one.as_result() for one in (found if isinstance(found, list) else [found])]
