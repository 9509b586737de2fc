"""A conversation of several turns over one session, whose cache is kept from turn to turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from types import TracebackType

import numpy as np
from tokenizers import Tokenizer

from llx.bench.chat import ChatTemplate, Message
from llx.bench.generate import (
    Turn,
    continued,
    full_cache,
    never,
    or_export,
    require_tokens,
)
from llx.bench.sampling import Sampling, StopTexts
from llx.bench.session import Session
from llx.corpus import require_known
from llx.errors import BadInput
from llx.tokenizer import encode

Tell = Callable[[str], None]


class Conversation:
    """Questions, and a model's answers as they come, over one engine that stays open.

    Each turn the chat template writes the whole conversation, and what its tokens share with those
    in the cache from the first on is not computed again: as a rule all but the new question. Where
    a template changes what was said earlier, or the words of an answer are cut into other tokens
    than it was made of, the prefill begins at the first token that differs.

    Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        ends: tuple[int, ...] = (),
        system: str | None = None,
        tokens: int = 512,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        context: int | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        require_tokens(tokens)
        StopTexts(stop)  # is refused now where it can be none
        self._session, self._tokenizer, self._template = session, tokenizer, template
        self._ends, self._most, self._stops = ends, tokens, tuple(stop)
        self._sampling, self._context, self._tell = sampling or Sampling(), context, tell
        self._system: list[Message] = []
        if system is not None:
            self._system = [{"role": "system", "content": system}]
        self._answering: Generator[str, None, None] | None = None
        self._is_open = True
        self.turns: list[Turn] = []
        self.reset()

    def __repr__(self) -> str:
        if not self._is_open:
            return "<llx.Conversation: closed>"
        return (
            f"<llx.Conversation: {len(self.messages)} messages, {len(self._cached)} of "
            f"{self.capacity} positions filled>"
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def capacity(self) -> int:
        """Positions of the cache."""
        return self._session.limits.capacity

    @property
    def cached(self) -> tuple[int, ...]:
        """The tokens whose keys and values the cache holds, by position."""
        return tuple(self._cached)

    def reset(self) -> None:
        """Begin anew: the system prompt stays, all that was said is forgotten."""
        self._require_open()
        self._stop_answering()
        self.messages: list[Message] = list(self._system)
        self._cached: list[int] = []
        self._rng = np.random.default_rng(self._sampling.seed)
        self._session.reset()

    def close(self) -> None:
        """Let go of the engine, its cache and the template's process; again it does nothing."""
        if self._is_open:
            self._stop_answering()
            self._is_open = False
            self._template.close()
            self._session.close()

    def ask(
        self, question: str, *, stopped: Callable[[], bool] = never
    ) -> Generator[str, None, None]:
        """Ask, and return the answer as an iterator of pieces of text.

        An answer that is not read to its end ends where it was left, and stands like that in the
        conversation.

        Args:
            question: What the user says.
            stopped: Asked after each step whether the answer is to end there.

        Returns:
            Pieces of text, which add up to the answer.

        Raises:
            BadInput: The question does not fit into the cache any more, or the template fails: the
                conversation is what it was before.
            GateFailed: The engine's logits are not finite.

        """
        self._require_open()
        self._stop_answering()
        messages: list[Message] = [*self.messages, {"role": "user", "content": question}]
        ids = encode(self._tokenizer, self._template.render(messages), add_special_tokens=False)
        if not ids:
            raise BadInput("the conversation has no token", "ask with a word")
        if len(ids) >= self.capacity:
            raise self._too_long(len(ids))
        require_known(max(ids), self._session.limits.vocab)
        self._answering = self._answer(messages, ids, stopped)
        return self._answering

    def _too_long(self, count: int) -> BadInput:
        export = or_export(self.capacity, self._context)
        first = len(self.messages) == len(self._system)
        said = "the question has" if first else "with this question the conversation has"
        return BadInput(
            f"{said} {count} tokens, and the cache {self.capacity} positions",
            f"shorten it{export}" if first else f"begin anew with /reset{export}",
        )

    def _answer(
        self, messages: list[Message], ids: list[int], stopped: Callable[[], bool]
    ) -> Generator[str, None, None]:
        turn, said = Turn(), ""
        pieces = continued(
            *(self._session, self._tokenizer, self._cached, ids, self._ends, self._most),
            *(self._sampling, self._rng, StopTexts(self._stops), turn, stopped),
        )
        try:
            with closing(pieces):
                for piece in pieces:
                    said += piece
                    yield piece
        finally:
            if turn.tokens or turn.ended == "end token":
                self.messages = [*messages, {"role": "assistant", "content": said}]
                self.turns.append(turn)
        if turn.ended == "full cache":
            self._tell(full_cache(self.capacity, self._context))

    def _stop_answering(self) -> None:
        if self._answering is not None:
            self._answering.close()
            self._answering = None

    def _require_open(self) -> None:
        if not self._is_open:
            raise BadInput("the conversation is closed", "begin another: llx.chat(artifact)")
