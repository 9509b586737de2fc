"""Generation: a prompt, a session, and text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llx.bench.chat import chat_prompt, render_chat
from llx.bench.clock import now_ns, timed_step
from llx.bench.sampling import Sampling, StopTexts, choose
from llx.bench.session import Session
from llx.bench.speed import steps
from llx.bench.text import PieceDecoder
from llx.corpus import require_known
from llx.errors import BadInput
from llx.tokenizer import encode

__all__ = ["Sampling", "chat_prompt", "choose", "generate", "render_chat"]

Ended = Literal["end token", "stop text", "most tokens", "full cache", "stopped"]


def never() -> bool:
    """Nobody asks for an early end."""
    return False


@dataclass(kw_only=True)
class Turn:
    """What one continuation took: filled in while it comes.

    `prompt` tokens stand before it, of which `prefilled` were new to the cache; `ttft_ns` passed
    until its first token was chosen, and `decode_ns` for all that were generated after that. Time
    that the reader of its pieces takes is not in there.
    """

    prompt: int = 0
    prefilled: int = 0
    tokens: list[int] = field(default_factory=list)
    ttft_ns: int = 0
    decode_ns: int = 0
    decoded: int = 0
    ended: Ended = "stopped"

    @property
    def tok_per_s(self) -> float | None:
        """Tokens decoded per second behind the first; None where there was no other."""
        return 1e9 * self.decoded / self.decode_ns if self.decode_ns else None


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str,
    ends: tuple[int, ...],
    most: int,
    sampling: Sampling,
    add_special_tokens: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    stops: Sequence[str] = (),
    context: int | None = None,
) -> Iterator[str]:
    """Yield the continuation of a prompt piece by piece, up to an end token or `most` tokens.

    It ends before the first of the texts `stops`, too. `tell` is told where the text ends because
    the cache is full. `context`: the positions that the model knows. Raises `BadInput` at the call
    where the prompt is empty or leaves no room in the cache, or where no token is asked for.
    """
    require_tokens(most)
    stopping = StopTexts(stops)
    ids = encode(tokenizer, prompt, add_special_tokens)
    if not ids:
        raise BadInput(
            "the prompt is empty, and this tokenizer puts no token before a text",
            "begin the text with a word",
        )
    capacity = session.limits.capacity
    if len(ids) >= capacity:
        raise BadInput(
            f"the prompt has {len(ids)} tokens, and the cache {capacity} positions",
            f"shorten it{or_export(capacity, context)}",
        )
    require_known(max(ids), session.limits.vocab)
    session.reset()
    turn, rng = Turn(), np.random.default_rng(sampling.seed)
    pieces = continued(session, tokenizer, [], ids, ends, most, sampling, rng, stopping, turn)
    return _telling(pieces, turn, capacity, context, tell)


def _telling(
    pieces: Iterator[str],
    turn: Turn,
    capacity: int,
    context: int | None,
    tell: Callable[[str], None],
) -> Iterator[str]:
    yield from pieces
    if turn.ended == "full cache":
        tell(full_cache(capacity, context))


def require_tokens(most: int) -> None:
    """Raise `BadInput` where no token is asked for."""
    if most < 1:
        raise BadInput(f"-n is {most}: no token is asked for", "give 1 or more")


def or_export(capacity: int, context: int | None) -> str:
    """Words for the remedy of a larger cache, where the model knows more positions than it has."""
    if context is None:
        return ", or export with a --context up to the model's own"
    if context <= capacity:
        return ", since the model itself knows no more positions"
    return f", or export with a larger --context, up to {context}"


def full_cache(capacity: int, context: int | None) -> str:
    """Why a text ends where the cache is full, and what makes it larger."""
    why = f"the text ends here because the cache of {capacity} positions is full"
    if context is None:
        return f"{why}: a --context up to the model's own makes it larger, at export"
    if context <= capacity:
        return f"{why}, which are all that the model knows"
    return f"{why}: a --context up to {context} makes it larger, at export"


def continued(
    session: Session,
    tokenizer: Tokenizer,
    cached: list[int],
    ids: list[int],
    ends: tuple[int, ...],
    most: int,
    sampling: Sampling,
    rng: np.random.Generator,
    stopping: StopTexts,
    turn: Turn,
    stopped: Callable[[], bool] = never,
) -> Generator[str, None, None]:
    """The pieces of what follows on a text of the tokens `ids`, as they come.

    `cached`: the tokens whose keys and values the session holds, by position. What they share with
    the text's beginning is not prefilled again; they are kept up to date, step by step. `turn` is
    filled in. `stopped` is asked after each step whether this is to end. There is room for a token
    at least, which is the caller's to know.
    """
    begin = now_ns()
    start = shared(cached, ids)
    decoder = PieceDecoder(tokenizer, ids)
    turn.prompt, turn.prefilled = len(ids), len(ids) - start
    del cached[start:]
    for part, positions in steps.chunks(session, np.array([ids[start:]], dtype=np.int64), start):
        timed_step(session, part, positions, steps.last_index(part))
        cached.extend(map(int, part[0]))
        if stopped():
            return
    text, room = list(ids), session.limits.capacity - len(ids)
    for count in range(1, min(most, room) + 1):
        token = choose(session.logits()[0, -1], sampling, rng, text)
        if count == 1:
            turn.ttft_ns = now_ns() - begin
        else:
            turn.decode_ns += now_ns() - begin
            turn.decoded += 1
        if token in ends:
            turn.ended = "end token"
            break
        text.append(token)
        turn.tokens.append(token)
        if piece := stopping.step(decoder.step(token)):
            yield piece
        if stopping.met or stopped():
            turn.ended = "stop text" if stopping.met else "stopped"
            break
        begin = now_ns()
        if count < min(most, room):
            timed_step(session, *_one(token, len(cached)))
            cached.append(token)
    else:
        turn.ended = "full cache" if room < most else "most tokens"
    if not stopping.met and (rest := stopping.step(decoder.rest()) + stopping.rest()):
        yield rest


def _one(token: int, position: int) -> tuple[NDArray[np.int64], ...]:
    """A step of one token: tokens, positions and which logits, [1, 1] each."""
    return tuple(np.array([[value]], dtype=np.int64) for value in (token, position, 0))


def shared(cached: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens at the beginning of `ids` are cached; its last is fed for its logits."""
    most = min(len(cached), len(ids) - 1)
    return next((at for at in range(most) if cached[at] != ids[at]), most)
