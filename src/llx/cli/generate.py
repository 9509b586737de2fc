"""`llx generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import (
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


def generate(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[DIR] PROMPT", help="An artifact's folder, and what to continue."),
    ],
    engine: TextEngine = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")] = False,
    date: Date = None,
    thinking: Thinking = None,
    most: Annotated[
        int, typer.Option("--tokens", "-n", min=1, metavar="N", help="Most new tokens.")
    ] = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = 0,
    stop: Stops = None,
    trust_engine: TrustEngine = False,
) -> None:
    """Continue a prompt, or answer a question with --chat."""
    from llx.api.generate import generate as continued
    from llx.errors import BadInput
    from llx.reports.console import warn
    from llx.reports.plain import spoken

    if len(words) > 2:
        raise BadInput(
            f"{len(words)} arguments where a folder and a prompt fit", "put the prompt into quotes"
        )
    if len(words) == 1 and Path(words[0]).is_dir():
        raise BadInput(f"{words[0]} is a folder, and no prompt", "give the prompt after it")
    news: list[str] = []
    pieces = continued(
        words[0] if len(words) == 2 else None,
        words[-1],
        engine=engine,
        chat=chat,
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
        tell=news.append,
    )
    for piece in pieces:
        print(spoken(piece), end="", flush=True)
    print()
    for line in news:
        warn(line)
