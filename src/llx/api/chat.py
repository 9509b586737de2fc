"""`llx.chat`: a conversation with an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from llx.api.engines import require_intact
from llx.api.watching import AnyArtifact, Tell, opened, telling
from llx.arguments import door
from llx.bench.chat import ChatTemplate
from llx.bench.conversation import Conversation
from llx.bench.generate import require_tokens
from llx.bench.sampling import Sampling, StopTexts
from llx.bench.sessions import Built, default_engine, engine_named
from llx.bench.text import tokenizer_of
from llx.templates import day_of


@door
def chat(
    artifact: AnyArtifact = None,
    *,
    engine: str | None = None,
    system: str | None = None,
    date: str | None = None,
    thinking: bool | None = None,
    tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    trust_engine: bool = False,
    tell: Tell | None = None,
) -> Conversation:
    """Begin a conversation: several turns with one load of the model.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        engine: One of `llx.bench`'s. None: "ort", else "torch".
        system: The system prompt. None: the chat template's own, if it has one.
        date: The day that the chat template is told, as YYYY-MM-DD. None: today.
        thinking: Whether a model that thinks before it answers does. None: its template's own.
        tokens: Most tokens of an answer.
        temperature: 0 is greedy.
        top_p: Nucleus sampling: the share of the probability that is drawn from, 0…1.
        top_k: Draw from the likeliest so many tokens. 0: from all.
        repetition_penalty: Above 1, tokens that were said already are less likely.
        seed: Seed of the sampling.
        stop: Texts, before the first of which an answer ends.
        trust_engine: Load a built engine that is not this user's own.
        tell: Called with a line where the template leaves out the system prompt or knows nothing of
            `thinking`, and where an answer ends because the cache is full. None: the logger `llx`.

    Returns:
        A conversation: its `ask(question)` is an iterator of pieces of text, `reset` begins anew,
        `turns` say what each answer took. It holds the engine until it is closed.

    Raises:
        BadInput: An unknown engine, impossible sampling, a chat template that fails.
        NotExported: The artifact has no tokenizer or chat template, which is a `BadInput`.
        Lacking: No such engine here.

    """
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    require_tokens(tokens)
    StopTexts(stop)
    found = opened(artifact)
    tokenizer = tokenizer_of(found)
    template = ChatTemplate(
        found,
        now=day_of(date),
        instead="use `llx generate`, which needs none without --chat",
        thinking=thinking,
    )
    try:
        _try_out(template, system, telling(tell))
        chosen = engine_named(engine) if engine else default_engine()
        chosen.require()
        require_intact(found, [chosen.name])
        session = chosen.open(found, 1, Built(trust=trust_engine))
    except BaseException:
        template.close()
        raise
    return Conversation(
        *(session, tokenizer, template),
        ends=found.manifest.text.eos_ids if found.manifest.text else (),
        system=system,
        tokens=tokens,
        sampling=sampling,
        stop=stop,
        context=found.manifest.spec.context,
        tell=telling(tell),
    )


def _try_out(template: ChatTemplate, system: str | None, tell: Tell) -> None:
    """Render a question before a model is loaded, and say where no system prompt stands in it."""
    asked = {"role": "user", "content": "?"}
    template.tell_of_thinking([asked], tell)
    if system is None:
        template.render([asked])
        return
    text = template.render([{"role": "system", "content": system}, asked])
    if system.strip() not in text:
        tell("this chat template leaves the system prompt out: the model is not told it")
