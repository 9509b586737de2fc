"""`llx generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[DIR] PROMPT", help="An artifact's folder, and what to continue."),
    ],
    engine: Annotated[
        str | None,
        typer.Option(
            help="One of `llx bench`, such as ort, torch or trt. [default: ort, else torch]"
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")] = False,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="The day that the chat template is told. [default: today]"
        ),
    ] = None,
    most: Annotated[int, typer.Option("--tokens", "-n", min=1, help="Most new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
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
        tokens=most,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        trust_engine=trust_engine,
        tell=news.append,
    )
    for piece in pieces:
        print(spoken(piece), end="", flush=True)
    print()
    for line in news:
        warn(line)
