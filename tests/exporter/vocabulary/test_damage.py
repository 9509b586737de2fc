"""Tokenizers that are damaged: one line that names the file, and nothing built."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.vocabulary import bpe, read_gguf, read_tokenizer_model
from tests.exporter.vocabularies import (
    MANY,
    built,
)


def assert_refused(path, match):
    with pytest.raises(BadInput, match=match) as caught:
        read_tokenizer_model(path)
    assert str(path) in str(caught.value)
    assert "download it again" in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_sentencepiece_model_is_refused(tmp_path, llama, share):
    data = llama.read_bytes()
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data[: int(len(data) * share)])
    assert_refused(path, "holds no whole tokenizer")


@given(data=st.data())
@MANY
def test_a_changed_byte_is_an_error_of_one_line_or_another_tokenizer(llama, data):
    raw = bytearray(llama.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(1, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = llama.with_name("changed.model")
    path.write_bytes(raw)
    try:
        text = read_tokenizer_model(path)
    except BadInput:
        return
    if text is not None:
        assert built(text).encode("a b").ids is not None


def lines(*changed):
    every = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    return "\n".join([*every, *changed])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("<!DOCTYPE html>", "line 1 is not a token"),
        (lines("!!!! 256"), "line 257 is not a token in base64"),
        (lines("YWI"), "line 257 is not"),
        (lines("YWI= x"), "line 257 is not"),
        (lines("YWI= 256 7"), "line 257 is not"),
        (lines("YWI= 256", "YWI= 257"), "line 258 repeats"),
        (lines("YWI= 255"), "without gap or repetition"),
        (lines("YWI= 300"), "without gap or repetition"),
        (lines("YWI= -1"), "without gap or repetition"),
        ("YWI= 0\n", "byte 0 is none of its tokens"),
        (lines(f"{base64.b64encode(bytes(2000)).decode()} 256"), "absurdly long"),
    ],
)
def test_a_damaged_list_of_ranks_is_refused(tmp_path, text, match):
    path = tmp_path / "tokenizer.model"
    path.write_text(text)
    assert_refused(path, match)


def test_what_is_no_tokenizer_at_all_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(bytes(100))
    assert_refused(path, "no field begins|ends before")
    path.write_bytes(b"\n\x05\n\x03<s>")
    assert_refused(path, "ends before its settings")
    assert_refused(tmp_path, "directory")


def test_a_piece_that_stands_twice_is_refused(tmp_path, llama):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(llama.read_bytes() + b"\n\x05\n\x03<s>")
    assert_refused(path, "'<s>' stands in it twice")


def gguf_fields(**changed):
    fields = {
        "model": "llama",
        "tokens": ["?", "<s>", "</s>", *bpe.BYTE_PIECES, "a", "b", "ab"],
        "token_type": [2, 3, 3, *[6] * 256, 1, 1, 1],
        "scores": [0.0] * 262,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (fields | changed).items()}


def test_a_small_gguf_vocabulary_is_read():
    tokenizer = built(read_gguf(Path("x.gguf"), gguf_fields(add_space_prefix=False)))
    assert tokenizer.encode("aba").tokens == ["<s>", "ab", "a"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"tokens": []}, "0 tokens"),
        ({"tokens": [1, 2]}, "no list of texts"),
        ({"tokens": "abc"}, "no list of texts"),
        ({"tokens": ["a"] * 262}, "'a' stands in it twice"),
        ({"tokens": [str(i) for i in range(bpe.MOST_TOKENS + 1)]}, "tokens, where 1 to"),
        ({"tokens": ["a" * 5000] + [str(i) for i in range(261)]}, "absurdly long"),
        ({"token_type": [1] * 261}, "262 tokens, 261 types"),
        ({"token_type": [1] * 261 + [6]}, "lacks some of the 256"),
        ({"scores": [0.0]}, "not every token has a score"),
        ({"scores": [float("nan")] * 262}, "not every token has a score"),
        ({"scores": ["0"] * 262}, "no list of numbers"),
        ({"model": "gpt2", "pre": "smollm", "merges": ["a"]}, "no pair"),
        ({"model": "gpt2", "pre": "smollm", "merges": [3]}, "no list of texts"),
        ({"model": "gpt2", "pre": "smollm", "merges": ["a c"]}, "out of vocabulary"),
    ],
)
def test_a_damaged_gguf_vocabulary_is_refused(changed, match):
    with pytest.raises(BadInput, match=match):
        read_gguf(Path("x.gguf"), gguf_fields(**changed))


@pytest.mark.parametrize(
    ("changed", "said", "taken"),
    [
        ({"eos_token_id": 262}, "eos_token_id is 262, none of its 262 tokens: 2 is taken", 2),
        ({"eos_token_id": "2"}, "eos_token_id is '2', no int: ignored", 2),
        ({"eot_token_id": -1}, "eot_token_id is -1, none of its 262 tokens: ignored", 2),
        ({"add_eos_token": 3}, "add_eos_token is '3', no bool: ignored", 2),
        ({"add_space_prefix": "no"}, "add_space_prefix is 'no', no bool: ignored", 2),
        ({"padding_token_id": 9.5}, "padding_token_id is '9.5', no int: ignored", 2),
    ],
)
def test_a_wrong_field_of_a_gguf_is_told_and_as_if_not_there(changed, said, taken):
    text = read_gguf(Path("x.gguf"), gguf_fields(**changed))
    assert text.record.eos_ids == (taken,)
    assert [said in line for line in text.warnings] == [True]
    assert text.tokenizer == read_gguf(Path("x.gguf"), gguf_fields()).tokenizer


def test_absurd_vocabularies_are_refused_before_they_are_built():
    families = [letter * n for letter in map(chr, range(0x4E00, 0x4E20)) for n in range(1, 500)]
    many = [f"<{i}>" for i in range(bpe.MOST_SPECIAL + 1)]
    for tokens, kind, match in (
        (families, 1, "absurdly many ways"),
        (many, 3, "special tokens"),
        (many, 4, "user's"),
    ):
        fields = {"token_type": [kind] * len(tokens), "scores": [0.0] * len(tokens)}
        with pytest.raises(BadInput, match=match):
            read_gguf(Path("x.gguf"), gguf_fields(tokens=tokens, **fields))
