"""`llx.evaluate`: an engine scored on tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llx.api.engines import require_intact
from llx.api.watching import AnyArtifact, call_in_words, opened, watched
from llx.arguments import door
from llx.bench.sessions import Built, default_engine, engine_named
from llx.bench.text import tokenizer_of
from llx.errors import BadInput, require_modules
from llx.evaluation import EvalRequest, Evaluation
from llx.files import make_folder
from llx.progress import Progress


@door
def evaluate(
    artifact: AnyArtifact,
    tasks: str | Sequence[str],
    *,
    engine: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch: int = 1,
    include_path: str | Path | None = None,
    chat: bool = False,
    multiturn: bool | None = None,
    date: str | None = None,
    allow_code: bool = False,
    trust_engine: bool = False,
    log_samples: str | Path | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> Evaluation:
    """Score an engine on tasks of lm-evaluation-harness.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        tasks: Names of tasks, groups or patterns, such as "wikitext" or "mmlu_*".
        engine: One of `llx.bench`'s. None: "ort", else "torch".
        limit: Documents of each task. None: all.
        num_fewshot: Examples before each. None: the task's own number.
        batch: Requests at a time, B.
        include_path: A folder with task files of your own.
        chat: Ask through the chat template.
        multiturn: Examples as turns of the chat. None: with a chat template.
        date: The day that the chat template is told, as YYYY-MM-DD. None: today.
        allow_code: Run tasks that bring code, or run what a model writes.
        trust_engine: Load a built engine that is not this user's own.
        log_samples: A folder to write into what was asked and answered, a line of JSON for each
            document. None: it is not kept.
        progress: Called with what is done, how much of how much, and the unit. None: bars.
        command: What stands in the record as the way to repeat it. None: this call.

    Returns:
        Every metric with its standard error, where the task has one (schema `llx.eval/1`).

    Raises:
        BadInput: Unknown tasks or engines, more rows than the engine takes, a task with code.
        Lacking: lm-evaluation-harness, a data set or the engine is not here.

    """
    command = command or call_in_words(evaluate, locals())
    if log_samples is not None:
        make_folder(Path(log_samples))
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not names:
        raise BadInput("no task is named", "name some: --tasks wikitext,hellaswag")
    chosen = engine_named(engine) if engine else default_engine()
    require_modules("llx eval", "eval", "lm_eval", "datasets")
    found = opened(artifact)
    tokenizer_of(found)
    chosen.require()
    require_intact(found, [chosen.name], progress=progress)
    built = Built(trust=trust_engine)
    limits = chosen.limits(found, batch, built)
    if batch > limits.max_rows:
        raise BadInput(
            f"--batch {batch} is more than the {limits.max_rows} rows that the artifact takes",
            f"choose at most {limits.max_rows}",
        )
    from llx.bench.tasks.run import run_tasks

    request = EvalRequest(
        tasks=names,
        limit=limit,
        num_fewshot=num_fewshot,
        batch=batch,
        include_path=Path(include_path) if include_path is not None else None,
        chat=chat,
        multiturn=multiturn,
        date=date,
        allow_code=allow_code,
        log_samples=Path(log_samples) if log_samples is not None else None,
        command=command,
    )
    with watched(progress, f"{chosen.name}: ") as news:
        return run_tasks(found, chosen, request, built, news)
