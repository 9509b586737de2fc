"""Real small vocabularies, trained and written as checkpoints bring them, and texts for them."""

from __future__ import annotations

import base64
import io
import pydoc_data.topics
import re
from dataclasses import replace
from pathlib import Path

import sentencepiece
from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llx.exporter.sources import open_source
from llx.exporter.vocabulary import bpe, words
from tests.checkpoints import TINY, random_tensors, write_gguf

PROSE = "\n".join(pydoc_data.topics.topics.values())


LINES = [line for line in PROSE.split("\n") if line.strip()]


CASES = {
    "prose": PROSE,
    "code": Path(bpe.__file__).read_text(),
    "empty": "",
    "space": " ",
    "leading spaces": "   three, then one",
    "trailing spaces": "one  two   ",
    "newlines": "a\n\nb\r\n\tc\n  \n",
    "digits": "3.14159 2026-11-24 1234567 ½ ٣",
    "contractions": "I'll, you'RE, it's, they'd've",
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "cjk": "漢字かな交じり文 한국어",
    "combining": "e\u0301 naïve ﬁ",
    "control characters": "\x00\x01\x7f\u2028\ufeff",
    "runs": "=" * 77 + " " * 41 + "a" * 33 + "ab" * 21,
    "looks like a byte": "<0x0A> <0xFF>",
    "the space's own character": "▁▁a ▁ b▁",
}


# Characters that make runs, overlaps and words, beside any others.
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from(list("aaab  \n▁=tehs'1é🙂漢")), max_size=80),
    st.lists(st.sampled_from(PROSE[:20000].split(" ")), max_size=20).map(" ".join),
).filter(lambda text: not re.search(r"<(s|/s|unk|pad|\|.*\|)>", text))  # those are special


MANY = settings(max_examples=150, deadline=None)


def train(**changed):
    """A SentencePiece model as LLaMA's was trained, on CPython's documentation."""
    arguments = {
        "model_type": "bpe",
        "vocab_size": 1500,
        "byte_fallback": True,
        "character_coverage": 0.9999,
        "split_digits": True,
        "add_dummy_prefix": True,
        "allow_whitespace_only_pieces": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "minloglevel": 2,
    }
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:6000]), model_writer=file, **arguments | changed
    )
    return file.getvalue()


def built(text):
    assert text is not None
    return Tokenizer.from_buffer(text.tokenizer)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


VARIANTS = {
    "llama": {},
    "large": {"vocab_size": 2000, "max_sentencepiece_length": 64},
    "no prefix": {"add_dummy_prefix": False},
    "user's pieces": {"user_defined_symbols": ["<mid>", "<m", "  ", "the"]},
    "squeezing": {"remove_extra_whitespaces": True},
    "no bytes": {"byte_fallback": False, "vocab_size": 700},
}


def train_ranks(size=1200):
    """Ranks as tiktoken reads them, out of a byte-level BPE trained on words of Llama 3's split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words.llama3_words()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES[:6000], trainer)
    byte_of = {character: byte for byte, character in enumerate(bpe.byte_characters())}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {bytes(byte_of[c] for c in token): rank for token, rank in tokens}


def write_ranks(path, ranks):
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines))
    return path


def gguf_text(path, **fields):
    """The text of a GGUF file with these `tokenizer.ggml` fields, written by gguf's own writer."""

    def describe(writer):
        for name, value in fields.items():
            getattr(writer, name)(value)

    spec = replace(TINY, vocab=len(fields["add_token_list"]))
    return open_source(write_gguf(path, spec, random_tensors(spec), describe=describe)).text()


def sentencepiece_fields(path):
    from llx.exporter.vocabulary.protobuf import read_sentencepiece

    model = read_sentencepiece(path.read_bytes(), 10**6)
    return {
        "add_tokenizer_model": "llama",
        "add_tokenizer_pre": "default",
        "add_token_list": model.pieces,
        "add_token_scores": model.scores,
        "add_token_types": model.kinds,
        "add_bos_token_id": 1,
        "add_eos_token_id": 2,
    }


def byte_level_fields(ranks, pre):
    spelled = bpe.byte_characters()
    tokens = ["".join(spelled[byte] for byte in token) for token in ranks]
    merges = [" ".join(merge) for merge in bpe.derive_merges(Path("x"), tokens)]
    special = list(words.LLAMA3_SPECIAL)
    return {
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": pre,
        "add_token_list": tokens + special,
        "add_token_types": [1] * len(tokens) + [3] * len(special),
        "add_token_merges": merges,
        "add_bos_token_id": len(ranks),
        "add_eos_token_id": len(ranks) + 9,
    }
