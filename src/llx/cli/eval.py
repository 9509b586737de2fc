"""`llx eval`."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import ArtifactFolders, command_line, names
from llx.cli.printed import printed


def eval_tasks(
    folder: ArtifactFolders = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Tasks of lm-eval, with commas: wikitext,hellaswag; also mmlu_*."
        ),
    ] = "",
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Engines of `llx bench`, with commas: torch, ort, openvino, torch-cuda, ort-cuda, "
            "trt, trt-rtx. [default: ort, else torch]",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Documents of each task. [default: all]")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Examples before each. [default: the task's own]"),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", "-b", min=1, metavar="N", help="Requests at a time.")
    ] = 1,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with task YAMLs of your own.")
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
    date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="The day that the chat template is told. [default: today]"
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Run tasks that bring code, or run what a model writes."),
    ] = False,
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
    log_samples: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write there what was asked and answered, a line of JSON for each document.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FORMAT", help="md or json. [default: table]"),
    ] = None,
) -> None:
    """Score engines and artifacts on tasks of lm-evaluation-harness, side by side."""
    from llx.api.evaluate import evaluate
    from llx.artifact import open_artifact
    from llx.bench.sessions import engine_named
    from llx.errors import BadInput
    from llx.evaluation import Evaluation, encode_evaluations
    from llx.reports.evaluations import show_evaluations

    if output not in (None, "md", "json"):
        raise BadInput(
            f"unknown format {output!r}", "choose md or json, or leave -o out for a table"
        )
    artifacts = [open_artifact(one) for one in folder] if folder else [open_artifact()]
    engines: list[str | None] = [engine_named(name).name for name in names(engine or "")]
    found: list[Evaluation] = []
    try:
        for artifact, name in product(artifacts, engines or [None]):
            found.append(
                evaluate(
                    artifact,
                    names(tasks),
                    engine=name,
                    limit=limit,
                    num_fewshot=num_fewshot,
                    batch=batch,
                    include_path=include_path,
                    chat=chat,
                    multiturn=multiturn,
                    date=date,
                    allow_code=allow_code,
                    trust_engine=trust_engine,
                    log_samples=log_samples,
                    command=command_line(),
                )
            )
    finally:  # what was scored before another one failed, too
        if found:
            printed(partial(show_evaluations, output=output), found, encode_evaluations)
