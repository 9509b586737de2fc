"""An artifact's tokenizer, and text out of tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from llx.artifact import Artifact
from llx.errors import NotExported
from llx.manifest import TOKENIZER, UNREAD
from llx.tokenizer import decode, parse_tokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no character are decoded to
# Bytes of UTF-8's longest character that can stand at the end of a text before its last.
MOST_OPEN = 3


def tokenizer_of(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer.

    Raises `NotExported` where its checkpoint had none, `BadInput` where its file is damaged.
    """
    if not artifact.has(TOKENIZER):
        told = (line for line in artifact.manifest.source.warnings if line.startswith(UNREAD))
        why = next(told, "its checkpoint had none").removeprefix(UNREAD)
        raise NotExported(
            f"{artifact.folder} has no tokenizer: {why}",
            "put one beside the checkpoint and export again with --overwrite",
        )
    return parse_tokenizer(artifact.read(TOKENIZER), artifact.path(TOKENIZER))


class PieceDecoder:
    """Text of a continuation, piece by piece, which add up to what decoding all at once says.

    A token may be the first bytes of a character: as long as the text ends in what may still
    become one, that end is held back; `rest` has it when no more tokens come. Only the last few
    tokens are decoded each time, with those of the piece before, since what stands at a text's
    beginning is decoded otherwise: SentencePiece's first space is none.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = _last_words(tokenizer, prompt)
        self._said = decode(tokenizer, self._window)
        self._new = 0  # tokens of the window whose text is not all said

    def step(self, token: int) -> str:
        """The text that a token adds, or "" where it must wait for the next."""
        self._window.append(token)
        self._new += 1
        text = decode(self._tokenizer, self._window)
        if not text.startswith(self._said) and self._new <= MOST_OPEN:
            return ""  # a run of bytes is decoded as a whole: the next may mend it
        open_end = len(text) - len(text.rstrip(UNKNOWN))
        piece = text[len(self._said) : len(text) - min(open_end, MOST_OPEN)]
        if not open_end and piece:
            self._window, self._new = self._window[-self._new :], 0
            self._said = decode(self._tokenizer, self._window)
        else:
            self._said += piece
        return piece

    def rest(self) -> str:
        """What was held back: an end that is no whole character."""
        return decode(self._tokenizer, self._window)[len(self._said) :]


def _last_words(tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt that are a text by themselves: all of them, if need be."""
    size = 4
    while size < len(prompt):
        text = decode(tokenizer, prompt[-size:])
        if text.strip() and UNKNOWN not in text:
            break
        size *= 2
    return list(prompt[-size:])
