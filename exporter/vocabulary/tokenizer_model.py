"""A file called tokenizer.model: SentencePiece's (LLaMA 1, Llama 2, Code Llama) or Llama 3's ranks.

The files are untrusted. They are read as data, within the bounds of `llx.exporter.vocabulary.bpe`,
by Python alone: SentencePiece's library parses in native code, and it tells neither the normalizer
nor which pieces the user defined.
"""

from __future__ import annotations

import base64
from pathlib import Path

from llx.exporter.vocabulary import protobuf
from llx.exporter.vocabulary.bpe import (
    MOST_BYTES,
    MOST_TOKENS,
    Kind,
    Prefix,
    Text,
    Vocabulary,
    byte_characters,
    byte_level_tokenizer,
    damaged,
    derive_merges,
    sentencepiece_tokenizer,
    unreadable,
)
from llx.exporter.vocabulary.words import LLAMA3_ENDS, LLAMA3_SPECIAL, llama3_words
from llx.files import is_lfs_pointer, lfs_pointer


def read_tokenizer_model(
    path: Path, vocab: int | None = None, prefix: Prefix | None = None
) -> Text:
    """A file called tokenizer.model, SentencePiece's or Llama 3's: its content tells which.

    `vocab` is the model's number of tokens: without it, a list of ranks that was cut off at the end
    of a line is not noticed. `prefix`: where SentencePiece's space stands in front of a text, if
    not as the file has it. Raises `BadInput` where the file is damaged, or is a SentencePiece model
    that `tokenizers` cannot follow token by token: of another type than BPE, or one that normalizes
    characters. No LLaMA's is.
    """
    if is_lfs_pointer(path):
        raise lfs_pointer(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise damaged(path, f"larger than {MOST_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, error.strerror or "unreadable") from None
    if not data:
        raise damaged(path, "empty")
    # A SentencePiece model begins with the byte 10 and a length: no text of printable characters.
    is_text = data[:1] != b"\n" and all(32 <= c < 127 or c in b"\r\n\t" for c in data[:64])
    return _from_ranks(path, data, vocab) if is_text else _from_sentencepiece(path, data, prefix)


def _from_sentencepiece(path: Path, data: bytes, prefix: Prefix | None) -> Text:
    try:
        model = protobuf.read_sentencepiece(data, MOST_TOKENS)
    except ValueError as error:
        raise damaged(path, str(error)) from None
    trainer, normalizer = model.trainer, model.normalizer
    tokens, kinds = model.pieces, model.kinds
    if kinds.count(Kind.UNKNOWN) != 1:
        raise damaged(path, f"{kinds.count(Kind.UNKNOWN)} pieces for the unknown, where one is")
    if trainer.model_type != protobuf.BPE or trainer.whitespace_as_suffix:
        raise unreadable(path, "a SentencePiece model of another type than BPE")
    if normalizer.charsmap or not normalizer.escape_whitespaces or Kind.UNUSED in kinds:
        raise unreadable(path, "a SentencePiece model that normalizes text, or has unused pieces")

    def control(name: str) -> int | None:
        found = tokens.index(name) if name in tokens else None
        return found if found is not None and kinds[found] == Kind.CONTROL else None

    vocabulary = Vocabulary(
        path=path,
        tokens=tokens,
        kinds=kinds,
        bos=control(trainer.bos_piece),
        eos=control(trainer.eos_piece),
        add_bos=True,
    )
    tokenizer = sentencepiece_tokenizer(
        vocabulary,
        model.scores,
        byte_fallback=trainer.byte_fallback,
        prefix=prefix or ("always" if normalizer.add_dummy_prefix else "never"),
        squeeze=normalizer.remove_extra_whitespaces,
    )
    return vocabulary.text(tokenizer)


def _from_ranks(path: Path, data: bytes, vocab: int | None) -> Text:
    """Llama 3's file: on each line a token in base64 and its rank, which is its id."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(filter(None, data.splitlines()), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise damaged(path, f"line {number} is not a token in base64 and its rank") from None
        if len(ranks) != number:
            raise damaged(path, f"line {number} repeats a token")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise damaged(path, "its ranks do not count from 0 without gap or repetition")
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking:
        raise damaged(path, f"byte {lacking[0]} is none of its tokens")
    if vocab not in (None, len(ranks) + len(LLAMA3_SPECIAL)):
        # The special tokens follow the ranks: with one too few, each would mean another.
        count = f"{len(ranks)} ranks and {len(LLAMA3_SPECIAL)} special tokens"
        raise damaged(path, f"{count} for a model of {vocab}")
    written = byte_characters()
    pieces = [
        "".join(written[byte] for byte in token)
        for token in sorted(ranks, key=lambda token: ranks[token])
    ]
    vocabulary = Vocabulary(
        path=path,
        tokens=[*pieces, *LLAMA3_SPECIAL],
        kinds=[Kind.NORMAL] * len(pieces) + [Kind.CONTROL] * len(LLAMA3_SPECIAL),
        bos=len(pieces) + LLAMA3_SPECIAL.index("<|begin_of_text|>"),
        eos=len(pieces) + LLAMA3_SPECIAL.index("<|end_of_text|>"),
        add_bos=True,
    )
    tokenizer = byte_level_tokenizer(
        vocabulary, derive_merges(path, pieces), llama3_words(), ignore_merges=True
    )
    ends = (len(pieces) + LLAMA3_SPECIAL.index(name) for name in LLAMA3_ENDS)
    return vocabulary.text(tokenizer, ends)
