"""Generation: a prompt, a session, and text as it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llx.bench.chat import chat_prompt, render_chat
from llx.bench.session import Session
from llx.bench.speed import steps
from llx.bench.text import PieceDecoder
from llx.corpus import require_known
from llx.errors import BadInput, GateFailed
from llx.tokenizer import encode

__all__ = ["Sampling", "chat_prompt", "choose", "generate", "render_chat"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; `top_p` is nucleus sampling."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise BadInput(f"--temperature is {self.temperature:g}", "choose 0 for greedy, or more")
        if not 0 < self.top_p <= 1:
            raise BadInput("--top-p is outside 0…1", "choose a share of the probability")
        if self.seed < 0:
            raise BadInput(f"--seed is {self.seed}", "choose 0 or more")


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str,
    ends: tuple[int, ...],
    most: int,
    sampling: Sampling,
    add_special_tokens: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Yield the continuation of a prompt piece by piece, up to an end token or `most` tokens.

    `tell` is told where the text ends because the cache is full. Raises `BadInput` at the call
    where the prompt is empty or leaves no room in the cache, or where no token is asked for.
    """
    if most < 1:
        raise BadInput(f"-n is {most}: no token is asked for", "give 1 or more")
    ids = encode(tokenizer, prompt, add_special_tokens)
    capacity = session.limits.capacity
    room = capacity - len(ids)
    if not ids:
        raise BadInput(
            "the prompt is empty, and this tokenizer puts no token before a text",
            "begin the text with a word",
        )
    if room < 1:
        raise BadInput(
            f"the prompt has {len(ids)} tokens, and the cache {capacity} positions",
            "shorten it, or export with a --context up to the model's own",
        )
    require_known(max(ids), session.limits.vocab)
    return _continued(session, tokenizer, ids, ends, most, sampling, tell)


def _continued(
    session: Session,
    tokenizer: Tokenizer,
    ids: list[int],
    ends: tuple[int, ...],
    most: int,
    sampling: Sampling,
    tell: Callable[[str], None],
) -> Iterator[str]:
    """The pieces of a continuation, as they come."""
    capacity = session.limits.capacity
    room = capacity - len(ids)
    rng = np.random.default_rng(sampling.seed)
    decoder = PieceDecoder(tokenizer, ids)
    session.reset()
    steps.prefill(session, np.array([ids], dtype=np.int64))
    position = len(ids)
    for count in range(1, min(most, room) + 1):
        token = choose(session.logits()[0, -1], sampling, rng)
        if token in ends:
            break
        if piece := decoder.step(token):
            yield piece
        if count < min(most, room):
            steps.decode_step(session, np.array([[token]], dtype=np.int64), position)
            position += 1
    if rest := decoder.rest():
        yield rest
    if room < most:
        tell(
            f"the text ends here because the cache of {capacity} positions is full: a --context up "
            "to the model's own makes it larger, at export"
        )


def choose(logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> int:
    """The next token from logits [V]: the likeliest, or one drawn from the nucleus.

    Nucleus: the smallest set of likeliest tokens whose probability reaches `top_p` (Holtzman et
    al., 2019, arXiv:1904.09751).
    """
    if not np.isfinite(logits).all():
        raise GateFailed(
            "the engine's logits are not finite",
            "the weights are damaged, or too large for the precision: export with --precision fp32",
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # next to 0 it is greedy: all but the likeliest vanish
        p = np.exp((logits - logits.max()).astype(np.float64) / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = order[before < sampling.top_p]
    return int(rng.choice(kept, p=p[kept] / p[kept].sum()))
