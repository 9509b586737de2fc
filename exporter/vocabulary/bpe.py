"""Byte-pair encodings built out of a vocabulary, in the form of the library `tokenizers`.

A text begins as its characters, or as its bytes; then neighbours are joined, the best piece first,
the leftmost where it occurs twice (Sennrich et al., 2016, arXiv:1508.07909).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

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

from llx.errors import BadInput
from llx.manifest import TextRecord

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

Prefix = Literal["always", "first", "never"]
"""Where a space is put in front: of a text and what follows a special token, of a text, nowhere."""


@dataclass(frozen=True)
class Text:
    """A checkpoint's tokenizer, as the bytes of a tokenizer.json, and its chat template.

    `warnings`: what its reader is to know, one line each.
    """

    tokenizer: bytes
    record: TextRecord
    chat_template: str | None = None
    warnings: tuple[str, ...] = ()


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
    add_eos: bool = False

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
        """The tokenizer as the bytes of its file, which begins and ends a text as is said here."""
        bos = self.tokens[self.bos] if self.bos is not None else ""
        put_around(
            tokenizer,
            self.bos if self.add_bos else None,
            self.eos if self.add_eos else None,
        )
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
    prefix: Prefix,
    squeeze: bool,
    swallowing: Collection[str] = (),
) -> Tokenizer:
    """SentencePiece's BPE: pieces are joined by score, unknown characters fall back to bytes.

    `prefix`: LLaMA's published tokenizers always put a space in front; transformers has those with
    `"legacy": false` do so at the text's beginning alone. `squeeze` makes one space of several and
    none of those at the ends. `swallowing`: special tokens after which spaces and line ends are
    dropped.
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
            *([normalizers.Prepend(SPACE)] if prefix == "always" else []),
            normalizers.Replace(" ", SPACE),
            *([normalizers.Replace(Regex(rf"{SPACE}+\z"), "")] if squeeze else []),
        ]
    )
    words: list[Any] = []
    if prefix == "first":
        words.append(pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False))
    if user:
        longest_first = sorted(user, key=len, reverse=True)
        pattern = Regex("|".join(map(_literal, longest_first)))
        words.append(pre_tokenizers.Split(pattern, "isolated"))
    if words:
        tokenizer.pre_tokenizer = words[0] if len(words) == 1 else pre_tokenizers.Sequence(words)
    strip = [decoders.Strip(" ", 1, 0)] if prefix != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_special(path, tokenizer, vocabulary.of(Kind.UNKNOWN, Kind.CONTROL), swallowing=swallowing)
    return tokenizer


def byte_level_tokenizer(
    vocabulary: Vocabulary,
    merges: Sequence[tuple[str, str]],
    words: Any,
    ignore_merges: bool = False,
    compose: bool = False,
) -> Tokenizer:
    """BPE over bytes that are written as characters (GPT-2, Radford et al., 2019).

    `words` cuts the text first. With `ignore_merges` a word that is a token is taken as it is.
    `compose`: letters and their accents are made one character before (Unicode's NFC), as Qwen's
    tokenizers do and llama.cpp does not.
    """
    path = vocabulary.path
    tokens = {token: i for i, token in enumerate(vocabulary.tokens)}
    try:
        model = models.BPE(vocab=tokens, merges=list(merges), ignore_merges=ignore_merges)
    except Exception as error:  # the library's own class, raised where a merge makes no token
        raise damaged(path, str(error)) from None
    tokenizer = Tokenizer(model)
    if compose:
        tokenizer.normalizer = normalizers.NFC()
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


def put_around(tokenizer: Tokenizer, first: int | None, last: int | None) -> None:
    """Make the tokenizer begin and end every text with a token, or with none."""
    if first is None and last is None:
        return
    # The template's words have a syntax, which a file's token could break: they go by other names.
    ids = {name: i for name, i in (("bos", first), ("eos", last)) if i is not None}
    single = [*(["bos"] if "bos" in ids else []), "$A", *(["eos"] if "eos" in ids else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *(f"{word.replace('$A', '$B')}:1" for word in single)],
        special_tokens=[
            {"id": name, "ids": [i], "tokens": [tokenizer.id_to_token(i)]}
            for name, i in ids.items()
        ],
    )


def add_special(
    path: Path,
    tokenizer: Tokenizer,
    tokens: Sequence[str],
    special: bool = True,
    swallowing: Collection[str] = (),
) -> None:
    """Find these tokens in any text as they stand; special ones are left out when decoding."""
    if len(tokens) > MOST_SPECIAL:
        raise damaged(path, f"{len(tokens)} special tokens, where {MOST_SPECIAL} fit")
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=special, rstrip=t in swallowing) for t in tokens]
    )


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
        "download it again, or put a tokenizer.json beside it",
    )


def unreadable(path: Path, kind: str) -> BadInput:
    """The error for a tokenizer that may well be whole, but is of a kind that llx does not read."""
    return BadInput(
        f"llx does not read the tokenizer of {path}: it is {kind}",
        "put a tokenizer.json beside it, which transformers writes: save_pretrained",
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
