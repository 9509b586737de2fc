"""The vocabulary of a GGUF file: SentencePiece's pieces with scores, or bytes with merges.

Keys, defaults and what is done where one is missing or wrong are llama.cpp's (src/llama-vocab.cpp
there). The file is untrusted: each field's type and range are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer

from llx.errors import BadInput
from llx.exporter.vocabulary.bpe import (
    BYTE_PIECES,
    Kind,
    Text,
    Vocabulary,
    byte_level_tokenizer,
    check_tokens,
    damaged,
    sentencepiece_tokenizer,
    unreadable,
)
from llx.exporter.vocabulary.folder import JSON, read_folder
from llx.exporter.vocabulary.templates import gguf_template
from llx.exporter.vocabulary.words import (
    GGUF_WORDS,
    LLAMA3_PRE,
    LLAMA3_SIGNS,
    PHI3_KEEPS,
    PHI3_SIGNS,
    QWEN2_PRE,
    WHOLE_PRE,
)

# Texts at which llama.cpp stops wherever a vocabulary has them, whatever the file calls its end.
END_TEXTS = (
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<EOT>",
    "▁<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
)
# What a chat template calls them, and the field that has the id.
NAMED = {
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # so GGUF spells it
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# What a file says that was written before there were names for the ways to cut words.
UNSAID = ("", "default")

LISTED: Mapping[str, type | tuple[type, ...]] = {
    "texts": str,
    "integers": int,
    "numbers": (int, float),
}
T = TypeVar("T", bool, int, str)


class _Fields:
    """The fields `tokenizer.…` of a file; those of a wrong type are told, and as if not there."""

    def __init__(self, path: Path, fields: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self._fields = fields

    def list_of(self, name: str, what: str) -> list[Any] | None:
        """A list of texts or numbers, or None. Raises `BadInput` where it holds anything else."""
        value = self._fields.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, LISTED[what]) for v in value):
            raise damaged(self.path, f"tokenizer.ggml.{name} is no list of {what}")
        return value

    def one(self, name: str, kind: type[T], key: str = "tokenizer.ggml.") -> T | None:
        """A single value, or None."""
        value = self._fields.get(f"{key}{name}")
        if value is None or type(value) is kind:
            return value
        self.tell(f"{self.path}: {key}{name} is {str(value)[:40]!r}, no {kind.__name__}: ignored")
        return None

    def id_of(self, name: str, size: int, default: int | None = None) -> int | None:
        """A token's id, or None."""
        value = self.one(name, int)
        if value is None or 0 <= value < size:
            return default if value is None else value
        usual = default if default is not None and default < size else None
        self.tell(
            f"{self.path}: tokenizer.ggml.{name} is {value}, none of its {size} tokens: "
            + ("ignored" if usual is None else f"{usual} is taken, as llama.cpp does")
        )
        return usual


def read_gguf(path: Path, fields: Mapping[str, Any], vocab: int | None = None) -> Text:
    """The vocabulary of a GGUF file with `vocab` rows of the embedding, out of `tokenizer.…`.

    Where it is damaged or of a kind that llx does not read, a tokenizer.json beside the file is
    taken; `BadInput` where there is none.
    """
    warnings: list[str] = []
    of = _Fields(path, fields, warnings.append)
    try:
        text = _own_text(of, vocab)
    except BadInput as error:
        beside = read_folder(path.parent, vocab) if path.with_name(JSON).is_file() else None
        if beside is None:
            raise
        of.tell(f"{error.message}; the {JSON} beside it is taken")
        rows = vocab or max(beside.record.eos_ids, default=0) + 1
        ids = [of.id_of(f"{name}_token_id", rows) for name in ("eos", "eot", "eom")]
        ends = dict.fromkeys((*beside.record.eos_ids, *(i for i in ids if i is not None)))
        text = replace(beside, record=replace(beside.record, eos_ids=tuple(ends)))
        warnings += beside.warnings
    template = gguf_template(fields, warnings)
    return replace(text, chat_template=template, warnings=tuple(warnings))


def _own_text(of: _Fields, vocab: int | None) -> Text:
    """The file's own vocabulary. Raises `BadInput` where it cannot be read."""
    path = of.path
    model, pre = of.one("model", str), of.one("pre", str) or ""
    stored = of.list_of("tokens", "texts")
    if pre in UNSAID and model == "gpt2" and set(LLAMA3_SIGNS) <= set(stored or ()):
        said = f"is {pre!r}" if pre else "is not there"
        of.tell(f"{path}: tokenizer.ggml.pre {said}; the tokens are Llama 3's, and read as such")
        pre = LLAMA3_PRE[0]
    if not (model == "llama" or (model == "gpt2" and pre in GGUF_WORDS)):
        raise unreadable(path, f"tokenizer.ggml.model {model!r}, tokenizer.ggml.pre {pre!r}")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(stored or ())]  # as llama.cpp does
    check_tokens(path, tokens)
    if vocab is not None and len(tokens) > vocab:
        of.tell(
            f"{path} has {len(tokens)} tokens for a model of {vocab}: a text that uses the others "
            "is refused"
        )
    byte_level, size = model == "gpt2", len(tokens)
    add_bos, add_eos = of.one("add_bos_token", bool), of.one("add_eos_token", bool)
    bos = of.id_of("bos_token_id", size, None if byte_level else min(1, size - 1))
    eos = of.id_of("eos_token_id", size, None if byte_level else min(2, size - 1))
    ends = [of.id_of(f"{name}_token_id", size) for name in ("eot", "eom")]
    index = {token: i for i, token in enumerate(tokens)}
    ends += [index[text] for text in END_TEXTS if text in index]
    named = {name: of.id_of(field, size) for name, field in NAMED.items()}
    special = {i for i in (bos, eos, *ends, *named.values()) if i is not None}
    vocabulary = Vocabulary(
        path=path,
        tokens=tokens,
        kinds=_kinds(of, tokens, special, None if byte_level else named["unk_token"] or 0),
        bos=bos,
        eos=eos,
        add_bos=add_bos if add_bos is not None else not byte_level or pre in WHOLE_PRE,
        add_eos=bool(add_eos),
    )
    tokenizer = _byte_level(of, vocabulary, pre) if byte_level else _scored(of, vocabulary)
    text = vocabulary.text(tokenizer, (i for i in ends if i is not None))
    texts = {name: tokens[i] for name, i in named.items() if i is not None}
    known = tuple(i for i in text.record.eos_ids if vocab is None or i < vocab)
    if not known:
        of.tell(f"{path} names no token at which text ends: generation goes on to -n")
    return replace(text, record=replace(text.record, eos_ids=known, special_tokens=texts))


def _kinds(of: _Fields, tokens: Sequence[str], special: set[int], unknown: int | None) -> list[int]:
    """What each token is for. A file without `token_type` says it by ids, and by bytes' names."""
    kinds = of.list_of("token_type", "integers")
    if kinds is None:
        bytes_ = set(BYTE_PIECES) if unknown is not None else set()
        kinds = [Kind.BYTE if token in bytes_ else Kind.NORMAL for token in tokens]
        signs = set(LLAMA3_SIGNS) <= set(tokens)
        for i, token in enumerate(tokens):
            if i in special or (signs and token.startswith("<|") and token.endswith("|>")):
                kinds[i] = Kind.CONTROL
        if unknown is not None:
            kinds[unknown] = Kind.UNKNOWN
    elif len(kinds) == len(tokens):
        # An end that is not called a control token is one all the same to llama.cpp.
        ends = {i for i in special if tokens[i] in END_TEXTS}
        kinds = [Kind.CONTROL if i in ends else kind for i, kind in enumerate(kinds)]
    return kinds


def _byte_level(of: _Fields, vocabulary: Vocabulary, pre: str) -> Tokenizer:
    pairs = [tuple(merge.split(" ", 1)) for merge in of.list_of("merges", "texts") or []]
    if any(len(pair) != 2 for pair in pairs):
        raise damaged(of.path, "one of its merges is no pair")
    return byte_level_tokenizer(
        vocabulary,
        [(left, right) for left, right in pairs],
        GGUF_WORDS[pre](),
        ignore_merges=pre in WHOLE_PRE,
        compose=pre in QWEN2_PRE,
    )


def _scored(of: _Fields, vocabulary: Vocabulary) -> Tokenizer:
    scores = of.list_of("scores", "numbers")
    space = of.one("add_space_prefix", bool)
    phi3 = set(PHI3_SIGNS) <= set(vocabulary.tokens)
    return sentencepiece_tokenizer(
        vocabulary,
        [0.0] * len(vocabulary.tokens) if scores is None else scores,
        byte_fallback=Kind.BYTE in vocabulary.kinds,
        prefix="never" if space is False else "always",
        squeeze=bool(of.one("remove_extra_whitespaces", bool)),
        swallowing=set(vocabulary.of(Kind.CONTROL)) - set(PHI3_KEEPS) if phi3 else (),
    )
