"""`llx chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import (
    ArtifactFolder,
    Date,
    Penalty,
    Seed,
    Stops,
    Temperature,
    TextEngine,
    Thinking,
    TopK,
    TopP,
    TrustEngine,
)


def chat(
    folder: ArtifactFolder = None,
    engine: TextEngine = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The system prompt. [default: the chat template's own]",
            show_default=False,
        ),
    ] = None,
    date: Date = None,
    thinking: Thinking = None,
    most: Annotated[
        int, typer.Option("--tokens", "-n", min=1, metavar="N", help="Most tokens an answer.")
    ] = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = 0,
    stop: Stops = None,
    trust_engine: TrustEngine = False,
) -> None:
    """Talk with a model: a question a line, from a terminal or a pipe.

    /reset begins anew, /exit or Ctrl-D ends, Ctrl-C ends an answer.
    """
    from llx.api.chat import chat as begin
    from llx.cli.talk import talk
    from llx.reports.console import warn

    conversation = begin(
        folder,
        engine=engine,
        system=system,
        date=date,
        thinking=thinking,
        tokens=most,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
        trust_engine=trust_engine,
        tell=warn,
    )
    with conversation:
        talk(conversation)
