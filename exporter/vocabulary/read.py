"""Every vocabulary that a LLaMA brings, as the bytes of a Hugging Face `tokenizer.json`.

Three kinds are read: SentencePiece's `tokenizer.model` (LLaMA 1, Llama 2, Code Llama), the list of
ranks that Llama 3 calls `tokenizer.model` too, and what a GGUF file says of either.

The files are untrusted. They are read as data, within the bounds of `llx.exporter.vocabulary.bpe`,
by Python alone: SentencePiece's library parses in native code, and it tells neither the normalizer
nor which pieces the user defined.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from llx.artifact import TextRecord
from llx.exporter.vocabulary import protobuf
from llx.exporter.vocabulary.bpe import (
    MOST_BYTES,
    MOST_TOKENS,
    Kind,
    Text,
    Vocabulary,
    add_special,
    byte_characters,
    byte_level_tokenizer,
    damaged,
    derive_merges,
    sentencepiece_tokenizer,
)
from llx.exporter.vocabulary.templates import gguf_template

__all__ = ["Text", "read_folder", "read_gguf", "read_tokenizer_model"]

# Llama 3's way to cut text into words, and its special tokens as Llama 3.1 names them, which follow
# the ranks: github.com/meta-llama/llama-models and the tokenizer.json that was published with it.
# Llama 3.0 calls some of these reserved; what it names stands at the same ids.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)
# Where Meta's own code stops, with base and instruct models alike.
LLAMA3_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
LLAMA3_PRE = ("llama-bpe", "llama-v3", "llama3")


def read_folder(folder: Path, vocab: int | None = None) -> Text | None:
    """The tokenizer of a Hugging Face folder: tokenizer.json as it is, else tokenizer.model.

    None where there is neither, or none that llx reads. `vocab` is the model's number of tokens.
    Raises `BadInput` where the tokenizer is damaged.
    """
    if (folder / "tokenizer.json").is_file():
        return Text((folder / "tokenizer.json").read_bytes(), TextRecord())
    if not (folder / "tokenizer.model").is_file():
        return None
    text = read_tokenizer_model(folder / "tokenizer.model", vocab)
    added = folder / "added_tokens.json"
    return _with_added(text, added) if text and added.is_file() else text


def read_tokenizer_model(path: Path, vocab: int | None = None) -> Text | None:
    """A file called tokenizer.model, SentencePiece's or Llama 3's: its content tells which.

    None where it is a SentencePiece model that `tokenizers` cannot follow token by token: of
    another type than BPE, or one that normalizes characters. No LLaMA's is. `vocab` is the model's
    number of tokens: without it, a list of ranks that was cut off at the end of a line is not
    noticed. Raises `BadInput` where the file is damaged.
    """
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
    return _from_ranks(path, data, vocab) if is_text else _from_sentencepiece(path, data)


def _from_sentencepiece(path: Path, data: bytes) -> Text | None:
    try:
        model = protobuf.read_sentencepiece(data, MOST_TOKENS)
    except ValueError as error:
        raise damaged(path, str(error)) from None
    trainer, normalizer = model.trainer, model.normalizer
    tokens, kinds = model.pieces, model.kinds
    if kinds.count(Kind.UNKNOWN) != 1:
        raise damaged(path, f"{kinds.count(Kind.UNKNOWN)} pieces for the unknown, where one is")
    if trainer.model_type != protobuf.BPE or trainer.whitespace_as_suffix:
        return None
    if normalizer.charsmap or not normalizer.escape_whitespaces or Kind.UNUSED in kinds:
        return None

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
        add_prefix=normalizer.add_dummy_prefix,
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
        vocabulary, derive_merges(path, pieces), _llama3_words(), ignore_merges=True
    )
    ends = (len(pieces) + LLAMA3_SPECIAL.index(name) for name in LLAMA3_ENDS)
    return vocabulary.text(tokenizer, ends)


def read_gguf(
    path: Path, fields: Mapping[str, Any], warnings: list[str] | None = None
) -> Text | None:
    """The vocabulary of a GGUF file, out of its fields `tokenizer.…`.

    Keys and defaults are llama.cpp's (src/llama-vocab.cpp there). None where the vocabulary is of a
    kind that llx does not read. What is wrong with its chat template is added to `warnings`. Raises
    `BadInput` where the vocabulary is damaged.
    """

    def get(name: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{name}", default)

    model, pre = get("model"), str(get("pre"))
    byte_level = model == "gpt2"
    if not (model == "llama" or (byte_level and pre in GGUF_WORDS)):
        return None
    tokens, kinds = get("tokens", []), get("token_type", [])
    if not _all(tokens, str) or not _all(kinds, int):
        raise damaged(path, "its tokens are no list of texts and their types")
    vocabulary = Vocabulary(
        path=path,
        tokens=[token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)],  # as llama.cpp does
        kinds=kinds,
        bos=_id(get("bos_token_id", None if byte_level else 1)),
        eos=_id(get("eos_token_id", None if byte_level else 2)),
        add_bos=bool(get("add_bos_token", not byte_level or pre in LLAMA3_PRE)),
    )
    if byte_level:
        tokenizer = byte_level_tokenizer(
            vocabulary,
            _stored_merges(path, get("merges", [])),
            GGUF_WORDS[pre](),
            pre in LLAMA3_PRE,
        )
    else:
        scores = get("scores", [0.0] * len(tokens))
        if not _all(scores, (int, float)):
            raise damaged(path, "its scores are no list of numbers")
        tokenizer = sentencepiece_tokenizer(
            vocabulary,
            scores,
            byte_fallback=Kind.BYTE in kinds,
            add_prefix=bool(get("add_space_prefix", True)),
            squeeze=bool(get("remove_extra_whitespaces", False)),
        )
    ends = [_id(get(f"{name}_token_id")) for name in ("eot", "eom")]
    if pre in LLAMA3_PRE:
        control = vocabulary.of(Kind.CONTROL)
        ends += [vocabulary.tokens.index(name) for name in LLAMA3_ENDS if name in control]
    text = vocabulary.text(tokenizer, (i for i in ends if i is not None))
    template = gguf_template(fields, warnings if warnings is not None else [])
    return replace(text, chat_template=template)


def _llama3_words() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2_words() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm_words() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2_words()])


# How text is cut into words, by `tokenizer.ggml.pre`. A file that says `default` predates the key:
# which model's way is meant is not known, so it is not read.
GGUF_WORDS: Mapping[str, Callable[[], Any]] = {
    "smollm": _smollm_words,
    "gpt-2": _gpt2_words,
    **dict.fromkeys(LLAMA3_PRE, _llama3_words),
}


def _with_added(text: Text, path: Path) -> Text:
    """Tokens that a fine-tuned model added to SentencePiece's: added_tokens.json, name → id."""
    tokenizer = Tokenizer.from_buffer(text.tokenizer)
    try:
        added = json.loads(path.read_bytes())
        if not isinstance(added, dict) or not _all([*added.values()], int):
            raise ValueError("no object of names and ids")
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    add_special(path, tokenizer, sorted(added, key=lambda name: added[name]))
    for name, token_id in added.items():
        if tokenizer.token_to_id(name) != token_id:
            raise damaged(path, f"id {token_id} of {name[:40]!r} does not follow the others")
    return replace(text, tokenizer=tokenizer.to_str().encode())


def _stored_merges(path: Path, merges: Any) -> list[tuple[str, str]]:
    if not _all(merges, str):
        raise damaged(path, "its merges are no list of texts")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise damaged(path, "one of its merges is no pair")
    return [(left, right) for left, right in pairs]


def _all(values: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _id(value: Any) -> int | None:
    return value if isinstance(value, int) else None
