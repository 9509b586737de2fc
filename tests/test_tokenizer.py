"""The door to the library `tokenizers`: what it raises and panics at becomes one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from llx.corpus import Cut, calibration_text, cut_windows
from llx.errors import BadInput
from llx.tokenizer import added_around, decode, encode, parse_tokenizer
from tests.checkpoints import byte_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9085657\n"
STORED = json.loads(byte_tokenizer(300).to_str())
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def parsed(**changed):
    return parse_tokenizer(json.dumps(STORED | changed).encode(), Path("x/tokenizer.json"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (POINTER, "is a Git LFS pointer"),
        (b"", "is empty"),
        (b"{}", "has no model"),
        (b"[]", "has no model"),
        (b'{"model_type": "llama"}', "has no model"),
        (b"<!DOCTYPE html>", "not readable JSON"),
        (b"\xef\xbb\xbf{}", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[" * 100000, "not readable JSON"),
        (json.dumps(STORED).encode()[:-500], "not readable JSON"),
    ],
)
def test_bytes_that_are_no_tokenizer_are_called_what_they_are(data, said, capfd):
    with pytest.raises(BadInput, match=said) as caught:
        parse_tokenizer(data, Path("x/tokenizer.json"))
    assert "x/tokenizer.json" in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"type": "Magic", "vocab": {}}},
        {"pre_tokenizer": {"type": "FromTheFuture"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"pre_tokenizer": SPLIT | {"pattern": {"Regex": "("}}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {
            "model": STORED["model"] | {"unk_token": "none", "vocab": {"a": 0}},
            "pre_tokenizer": None,
        },
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "none", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
)
def test_a_tokenizer_that_cannot_work_is_refused_before_it_is_used(changed, capfd):
    with pytest.raises(BadInput, match="no tokenizer that can be used") as caught:
        parsed(**changed)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stage", ["normalizer", "decoder"])
def test_a_chain_that_multiplies_a_text_is_refused(stage):
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    inner = "normalizers" if stage == "normalizer" else "decoders"
    with pytest.raises(BadInput, match="absurdly many steps"):
        parsed(**{stage: {"type": "Sequence", inner: [double] * 30}})
    with pytest.raises(BadInput, match="absurdly many steps"):
        parsed(**{stage: {"type": "Sequence", inner: [{"type": "Strip"}] * 1000}})
    repeated = {"Sequence": {"id": "A", "type_id": 0}}
    with pytest.raises(BadInput, match="absurdly many steps"):
        parsed(
            post_processor={
                "type": "TemplateProcessing",
                "single": [repeated] * 10000,
                "pair": [],
                "special_tokens": {},
            }
        )


def test_a_text_on_which_the_library_panics_is_refused(capfd):
    tokenizer = parsed(pre_tokenizer=SPLIT | {"pattern": {"Regex": "^(a+)+$"}})
    with pytest.raises(BadInput, match="the tokenizer fails on this text"):
        encode(tokenizer, "a" * 40 + "b")
    assert capfd.readouterr().err == ""


def test_a_text_that_is_no_unicode_is_refused():
    with pytest.raises(BadInput, match="no UTF-8"):
        encode(byte_tokenizer(300), "caf\udce9")


def test_an_id_without_a_token_has_no_text():
    tokenizer = byte_tokenizer(300)
    assert (
        decode(tokenizer, [*encode(tokenizer, "a"), 310, 4000000000, *encode(tokenizer, "b")])
        == "ab"
    )


def test_a_window_begins_with_what_stands_before_a_text_and_nothing_that_stands_behind_it():
    tokenizer = byte_tokenizer(300)
    for template, before, behind in (
        ("$A", [], []),
        ("<unused3> $A", [260], []),
        ("$A <end>", [], [0]),
        ("<unused3> $A <end>", [260], [0]),
        ("<unused3> <unused3> $A <end> <end>", [260, 260], [0, 0]),
    ):
        tokenizer.post_processor = TemplateProcessing(
            template, "$A $B", [("<unused3>", 260), ("<end>", 0)]
        )
        assert added_around(tokenizer, "some text") == (before, behind)
        cut = cut_windows(tokenizer, calibration_text(), Cut(window=16, windows=3))
        assert cut.tokens[:, : len(before)].tolist() == [before] * 3
        assert not (cut.tokens[:, len(before) :] == 0).any()
        assert cut.bos == ("each window" if before else "none")
