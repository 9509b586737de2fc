"""Byte-pair encodings built out of a vocabulary, in the form of the library `tokenizers`.

A text begins as its characters, or as its bytes; then neighbours are joined, the best piece first,
the leftmost where it occurs twice (Sennrich et al., 2016, arXiv:1508.07909).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from llx.artifact import TextRecord
from llx.errors import BadInput

# Bounds on what a file may ask for. Llama 3, the largest, has 128256 tokens in 2.1 MB; its longest
# is 128 characters, and the pairs that make its tokens have 2 million.
MOST_BYTES = 16 << 20
MOST_TOKENS = 1 << 19
MOST_CHARACTERS = 1 << 22
LONGEST_TOKEN = 1024
MOST_IN_MERGES = 1 << 26  # characters
MOST_SPECIAL = 1 << 14

SPACE = "▁"  # U+2581, as which SentencePiece writes a space
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class Text:
    """A checkpoint's tokenizer, as the bytes of a tokenizer.json, and its chat template."""

    tokenizer: bytes
    record: TextRecord
    chat_template: str | None = None


class Kind(IntEnum):
    """What a token is for. SentencePiece and GGUF share the numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens in the order of their ids, each with its kind; `bos` and `eos` are ids."""

    path: Path
    tokens: Sequence[str]
    kinds: Sequence[int]
    bos: int | None
    eos: int | None
    add_bos: bool

    def __post_init__(self) -> None:
        """Raise `BadInput` where this is no vocabulary, or an absurd one."""
        check_tokens(self.path, self.tokens)
        if len(self.kinds) != len(self.tokens):
            raise damaged(self.path, f"{len(self.tokens)} tokens, {len(self.kinds)} types")
        for name, i in (("beginning", self.bos), ("end", self.eos)):
            if i is not None and not 0 <= i < len(self.tokens):
                raise damaged(self.path, f"token {i}, the text's {name}, is none of its tokens")

    def of(self, *kinds: Kind) -> list[str]:
        """The tokens of some kinds."""
        return [t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    def text(self, tokenizer: Tokenizer, ends: Iterable[int] = ()) -> Text:
        """The tokenizer as the bytes of its file, after the beginning's token was put in front."""
        bos = self.tokens[self.bos] if self.bos is not None else ""
        if self.bos is not None and self.add_bos:
            put_first(tokenizer, bos, self.bos)
        eos_ids = [self.eos, *ends] if self.eos is not None else ends
        record = TextRecord(
            eos_ids=tuple(dict.fromkeys(eos_ids)),
            bos_token=bos,
            eos_token=self.tokens[self.eos] if self.eos is not None else "",
        )
        return Text(tokenizer.to_str().encode(), record)


def sentencepiece_tokenizer(
    vocabulary: Vocabulary,
    scores: Sequence[float],
    *,
    byte_fallback: bool,
    add_prefix: bool,
    squeeze: bool,
) -> Tokenizer:
    """SentencePiece's BPE: pieces are joined by score, unknown characters fall back to bytes.

    `add_prefix` puts a space in front of the text, and of what follows a special token, as LLaMA's
    published tokenizers do; `squeeze` makes one space of several and none of those at the ends.
    """
    path, tokens = vocabulary.path, vocabulary.tokens
    if byte_fallback and set(BYTE_PIECES) - set(vocabulary.of(Kind.BYTE)):
        raise damaged(path, "it falls back to bytes and lacks some of the 256")
    if len(scores) != len(tokens) or any(map(math.isnan, scores)):
        raise damaged(path, "not every token has a score")
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind == Kind.NORMAL]
    # Where a converter wrote equal scores, the ids still stand in the order of the merges.
    normal.sort(key=lambda i: (-scores[i], i))
    user = vocabulary.of(Kind.USER_DEFINED)
    if len(user) > MOST_SPECIAL:
        raise damaged(path, f"{len(user)} pieces of its user's, where {MOST_SPECIAL} fit")
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=derive_merges(path, [tokens[i] for i in normal]),
        unk_token=next(iter(vocabulary.of(Kind.UNKNOWN)), None),
        fuse_unk=True,
        byte_fallback=byte_fallback,
        # Pieces that the user defined are cut out below, and then need no merges.
        ignore_merges=bool(user),
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Replace(Regex(r"\A +| +(?= )"), "")] if squeeze else []),
            *([normalizers.Prepend(SPACE)] if add_prefix else []),
            normalizers.Replace(" ", SPACE),
            *([normalizers.Replace(Regex(rf"{SPACE}+\z"), "")] if squeeze else []),
        ]
    )
    if user:
        longest_first = sorted(user, key=len, reverse=True)
        pattern = Regex("|".join(map(_literal, longest_first)))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    strip = [decoders.Strip(" ", 1, 0)] if add_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_special(path, tokenizer, vocabulary.of(Kind.UNKNOWN, Kind.CONTROL))
    return tokenizer


def byte_level_tokenizer(
    vocabulary: Vocabulary,
    merges: Sequence[tuple[str, str]],
    words: Any,
    ignore_merges: bool = False,
) -> Tokenizer:
    """BPE over bytes that are written as characters (GPT-2, Radford et al., 2019).

    `words` cuts the text first. With `ignore_merges` a word that is a token is taken as it is.
    """
    path = vocabulary.path
    tokens = {token: i for i, token in enumerate(vocabulary.tokens)}
    try:
        model = models.BPE(vocab=tokens, merges=list(merges), ignore_merges=ignore_merges)
    except Exception as error:  # the library's own class, raised where a merge makes no token
        raise damaged(path, str(error)) from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    add_special(path, tokenizer, vocabulary.of(Kind.CONTROL))
    add_special(path, tokenizer, vocabulary.of(Kind.USER_DEFINED), special=False)
    return tokenizer


def derive_merges(path: Path, pieces: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair that makes a piece, in the order of the pieces: the best first.

    SentencePiece and tiktoken join any two neighbours that together are a piece, whichever pair
    the training once joined; so all pairs are needed.
    """
    order = {piece: piece for piece in pieces}
    merges, characters = [], 0
    for piece in order:
        for cut in range(len(piece) - 1, 0, -1):
            left, right = order.get(piece[:cut]), order.get(piece[cut:])
            if left is not None and right is not None:
                merges.append((left, right))
                characters += len(piece)
        if characters > MOST_IN_MERGES:
            raise damaged(path, "its tokens are made in absurdly many ways")
    return merges


def put_first(tokenizer: Tokenizer, token: str, token_id: int) -> None:
    """Make the tokenizer begin every text with a token."""
    # The template's words have a syntax, which a file's token could break: it goes by another name.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["bos", "$A"],
        pair=["bos", "$A", "bos:1", "$B:1"],
        special_tokens=[{"id": "bos", "ids": [token_id], "tokens": [token]}],
    )


def add_special(
    path: Path, tokenizer: Tokenizer, tokens: Sequence[str], special: bool = True
) -> None:
    """Find these tokens in any text as they stand; special ones are left out when decoding."""
    if len(tokens) > MOST_SPECIAL:
        raise damaged(path, f"{len(tokens)} special tokens, where {MOST_SPECIAL} fit")
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=special) for t in tokens])


def check_tokens(path: Path, tokens: Sequence[str]) -> None:
    """Raise `BadInput` where a vocabulary is empty, repeats a token, or is absurdly large."""
    if not tokens or len(tokens) > MOST_TOKENS:
        raise damaged(path, f"{len(tokens)} tokens, where 1 to {MOST_TOKENS} fit")
    if max(map(len, tokens)) > LONGEST_TOKEN or sum(map(len, tokens)) > MOST_CHARACTERS:
        raise damaged(path, "its tokens are absurdly long")
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, times in Counter(tokens).items() if times > 1)
        raise damaged(path, f"token {twice[:40]!r} stands in it twice")


def damaged(path: Path, why: str) -> BadInput:
    """The error for a file whose tokenizer cannot be used."""
    return BadInput(
        f"{path} holds no whole tokenizer ({why})",
        "download it again, not as a Git LFS pointer, or put a tokenizer.json beside it",
    )


def byte_characters() -> list[str]:
    """The character that stands for each byte: itself where it prints, else from U+0100 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printing)
    characters = {byte: chr(byte) for byte in printing}
    characters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def _literal(text: str) -> str:
    """A pattern that matches the text as it stands."""
    return "".join(rf"\x{{{ord(character):X}}}" for character in text)
