"""`llx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import ArtifactFolder, command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llx.evaluation import Evaluation, Metric


def eval_tasks(
    folder: ArtifactFolder = None,
    tasks: Annotated[
        str, typer.Option(help="Tasks of lm-eval, with commas: wikitext,hellaswag; also mmlu_*.")
    ] = "",
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, ort, torch-cuda, ort-cuda, trt or trt-rtx. [default: ort, else torch]"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents of each task. [default: all]")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each. [default: the task's own]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Requests at a time.")] = 1,
    include_path: Annotated[
        Path | None, typer.Option(help="A folder with task YAMLs of your own.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask through the chat template.")
    ] = False,
    multiturn: Annotated[
        bool | None,
        typer.Option(
            "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
            help="Examples as turns of the chat. [default: with a chat template]",
            show_default=False,
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Run tasks that bring code, or run what a model writes."),
    ] = False,
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="md or json. [default: table]")
    ] = None,
) -> None:
    """Score an engine on tasks of lm-evaluation-harness."""
    from llx.artifact import open_artifact
    from llx.bench.sessions import Built, default_engine, engine_named
    from llx.bench.text import tokenizer_of
    from llx.errors import BadInput, require_modules
    from llx.reports.console import progress_bars

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names:
        raise BadInput("no task is named", "name some: --tasks wikitext,hellaswag")
    if output not in (None, "md", "json"):
        raise BadInput(
            f"unknown format {output!r}", "choose md or json, or leave -o out for a table"
        )
    chosen = engine_named(engine) if engine else default_engine()
    require_modules("llx eval", "eval", "lm_eval", "datasets")
    artifact = open_artifact(folder)
    tokenizer_of(artifact)
    chosen.require()
    built = Built(trust=trust_engine)
    limits = chosen.limits(artifact, batch, built)
    if batch > limits.max_rows:
        raise BadInput(
            f"--batch {batch} is more than the {limits.max_rows} rows that the artifact takes",
            f"choose at most {limits.max_rows}",
        )
    from llx.bench.tasks.run import run_tasks
    from llx.evaluation import EvalRequest

    request = EvalRequest(
        tasks=names,
        limit=limit,
        num_fewshot=num_fewshot,
        batch=batch,
        include_path=include_path,
        chat=chat,
        multiturn=multiturn,
        allow_code=allow_code,
        command=command_line(),
    )
    with progress_bars(f"{chosen.name}: ") as progress:
        evaluation = run_tasks(artifact, chosen, request, built, progress)
    _show(evaluation, output)


def _show(evaluation: Evaluation, output: str | None) -> None:
    from llx.evaluation import encode_evaluation
    from llx.reports.console import say, show, simple_table
    from llx.reports.markdown import markdown_table

    title = (
        f"{evaluation.artifact.name} · {evaluation.precision} · {evaluation.engine} · "
        f"lm-eval {evaluation.versions['lm-eval']}"
    )
    headings = ("task", "metric", ">value", ">n", ">shots")
    if output == "json":
        print(encode_evaluation(evaluation).decode(), end="")
    elif output == "md":
        table = markdown_table(headings, _rows(evaluation))
        lines = [title, table, *_conditions(evaluation), f"Repeat with `{evaluation.command}`."]
        print("\n\n".join(lines))
    else:
        show(simple_table(title, headings, list(_rows(evaluation))))
        for line in _conditions(evaluation):
            say(line)


def _rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """A line for each metric; the task's name stands at its first."""
    for task in evaluation.tasks:
        name = f"{task.task} v{task.version}" if task.version else task.task
        for i, metric in enumerate(task.metrics):
            yield (
                "" if i else name,
                metric.metric if metric.filter == "none" else f"{metric.metric} ({metric.filter})",
                _value(metric),
                "" if task.documents is None else str(task.documents),
                "" if task.fewshot is None else str(task.fewshot),
            )


def _value(metric: Metric) -> str:
    from llx.reports.units import plus_minus, significant

    if metric.stderr is None or metric.stderr != metric.stderr:
        return significant(metric.value)
    return plus_minus(metric.value, metric.stderr)


def _conditions(evaluation: Evaluation) -> Iterator[str]:
    """What a reader of the numbers must know."""
    settings = evaluation.settings
    if any(task.documents != task.of for task in evaluation.tasks):
        yield "Not all documents were scored: compare only with runs of the same --limit."
    if evaluation.truncated:
        count = evaluation.truncated
        yield (
            f"{count} {'context was' if count == 1 else 'contexts were'} cut from the left: the "
            f"cache holds {settings.capacity} positions."
        )
    if settings.allow_code:
        yield "Tasks were allowed to run code."
