"""`llx.generate`: text from an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llx.api.engines import require_intact
from llx.api.watching import AnyArtifact, Tell, opened, telling
from llx.arguments import door
from llx.bench import generate as generation
from llx.bench.chat import chat_prompt
from llx.bench.session import Session
from llx.bench.sessions import Built, default_engine, engine_named
from llx.bench.text import tokenizer_of
from llx.errors import BadInput


@door
def generate(
    artifact: AnyArtifact,
    prompt: str,
    *,
    engine: str | None = None,
    chat: bool = False,
    date: str | None = None,
    thinking: bool | None = None,
    tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    trust_engine: bool = False,
    tell: Tell | None = None,
) -> Iterator[str]:
    """Continue a prompt, or answer a question, piece by piece.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        prompt: What to continue; with `chat`, what to ask through the chat template.
        engine: One of `llx.bench`'s. None: "ort", else "torch".
        chat: Ask through the chat template.
        date: The day that the chat template is told, as YYYY-MM-DD. None: today.
        thinking: Whether a model that thinks before it answers does. None: its template's own.
        tokens: Most new tokens.
        temperature: 0 is greedy.
        top_p: Nucleus sampling: the share of the probability that is drawn from, 0…1.
        top_k: Draw from the likeliest so many tokens. 0: from all.
        repetition_penalty: Above 1, tokens that stand in the text already are less likely.
        seed: Seed of the sampling.
        stop: Texts, before the first of which the continuation ends.
        trust_engine: Load a built engine that is not this user's own.
        tell: Called with a line where the text ends because the cache is full, and where the chat
            template knows nothing of `thinking`. None: the logger `llx`.

    Returns:
        An iterator of pieces of text. The engine is opened by the call and closed at its end.

    Raises:
        BadInput: A prompt that is empty or leaves no room in the cache, an unknown engine, a chat
            template that fails.
        NotExported: The artifact has no tokenizer or chat template, which is a `BadInput`.
        Lacking: No such engine here.
        GateFailed: The engine's logits are not finite.

    """
    if date is not None and not chat:
        raise BadInput("--date is what a chat template is told", "add --chat, or leave it out")
    if thinking is not None and not chat:
        raise BadInput(
            f"--{'' if thinking else 'no-'}thinking is what a chat template is told",
            "add --chat, or leave it out",
        )
    sampling = generation.Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    found = opened(artifact)
    tokenizer = tokenizer_of(found)
    words = chat_prompt(found, prompt, date, thinking, telling(tell)) if chat else prompt
    chosen = engine_named(engine) if engine else default_engine()
    chosen.require()
    require_intact(found, [chosen.name])
    session = chosen.open(found, 1, Built(trust=trust_engine))
    text = found.manifest.text
    ends = text.eos_ids if text else ()

    try:
        pieces = generation.generate(
            *(session, tokenizer, words, ends, tokens, sampling),
            add_special_tokens=not chat,
            tell=telling(tell),
            stops=stop,
            context=found.manifest.spec.context,
        )
    except BaseException:
        session.close()
        raise
    return _closing(pieces, session)


def _closing(pieces: Iterator[str], session: Session) -> Iterator[str]:
    try:
        yield from pieces
    finally:
        session.close()
