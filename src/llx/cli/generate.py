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
    most: Annotated[int, typer.Option("--tokens", "-n", min=1, help="Most new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
) -> None:
    """Continue a prompt, or answer a question with --chat."""
    from llx.artifact import open_artifact
    from llx.bench import generate as generation
    from llx.bench.sessions import Built, default_engine, engine_named
    from llx.bench.text import tokenizer_of
    from llx.errors import BadInput

    if len(words) > 2:
        raise BadInput(
            f"{len(words)} arguments where a folder and a prompt fit", "put the prompt into quotes"
        )
    if len(words) == 1 and Path(words[0]).is_dir():
        raise BadInput(f"{words[0]} is a folder, and no prompt", "give the prompt after it")
    sampling = generation.Sampling(temperature=temperature, top_p=top_p, seed=seed)
    artifact = open_artifact(Path(words[0]) if len(words) == 2 else None)
    tokenizer = tokenizer_of(artifact)
    prompt = generation.chat_prompt(artifact, words[-1]) if chat else words[-1]
    chosen = engine_named(engine) if engine else default_engine()
    chosen.require()
    text = artifact.manifest.text
    session = chosen.open(artifact, 1, Built(trust=trust_engine))
    pieces = generation.generate(
        session,
        tokenizer,
        prompt,
        text.eos_ids if text else (),
        most,
        sampling,
        add_special_tokens=not chat,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    session.close()
