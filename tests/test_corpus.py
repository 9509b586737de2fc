"""The text of calibration and the text of judgement have nothing in common."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from llx.corpus import Corpus, Cut, calibration_text, corpus_of, cut_windows, evaluation_text
from llx.errors import BadInput
from tests.checkpoints import byte_tokenizer


def paragraphs(corpus):
    return {" ".join(part.split()) for part in corpus.text.split("\n\n")} - {""}


def test_no_paragraph_is_in_both_texts():
    one, other = paragraphs(calibration_text()), paragraphs(evaluation_text())
    assert len(one) > 500
    assert len(other) > 500
    assert one & other == set()


def test_no_window_of_one_text_is_in_the_other():
    tokenizer = byte_tokenizer(300)
    calibrating, judging = calibration_text(), evaluation_text()
    for text, other in ((calibrating, judging), (judging, calibrating)):
        for row in cut_windows(tokenizer, text, Cut(windows=16)).tokens:
            window = tokenizer.decode(row.tolist())
            assert window in text.text
            assert window not in other.text


def test_the_texts_are_told_apart_by_name_and_hash():
    one, other = calibration_text(), evaluation_text()
    assert one.name != other.name
    assert one.sha256 != other.sha256


def test_windows_that_do_not_fit_into_the_text_are_refused():
    with pytest.raises(BadInput, match="1000 windows of 512 tokens do not fit"):
        cut_windows(byte_tokenizer(300), calibration_text(), Cut(windows=1000))


def words_of(count):
    """A tokenizer of numbers, one token each, which begins a text with token 0, and such a text."""
    vocabulary = {"<s>": 0, **{f"w{i}": i for i in range(1, count + 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    text = " ".join(f"w{i}" for i in range(1, count + 1))
    return tokenizer, Corpus(name="numbers", text=text, sha256="", own=False)


@given(
    count=st.integers(3, 60),
    window=st.integers(3, 20),
    windows=st.none() | st.integers(0, 6),
    stride=st.none() | st.integers(1, 30),
    bos=st.sampled_from(["each", "first", "none"]),
)
def test_windows_are_of_the_text_and_no_token_is_scored_twice(count, window, windows, stride, bos):
    tokenizer, corpus = words_of(count)
    body, length = window - (bos == "each"), count + (bos == "first")
    try:
        cut = Cut(window=window, windows=windows, stride=stride, bos=bos)
        found = cut_windows(tokenizer, corpus, cut)
    except BadInput:
        step = stride or body
        assert body < 2 or length < body or (windows or 1) * step > length - body + step
        return
    rows = found.tokens
    assert rows.shape[1] == window
    if windows:
        assert len(rows) == windows
    if windows == 0:  # no other one would have fitted
        assert found.stride * len(rows) + body > length
    assert (rows == 0).sum(0).tolist()[0] == {"each": len(rows), "first": 1, "none": 0}[bos]
    for row in rows:
        text = row[1:] if row[0] == 0 else row
        assert text.tolist() == list(range(text[0], text[0] + len(text)))
    scored = rows[:, -found.scored :] if found.scored else rows[:, 1:]
    assert len(np.unique(scored)) == scored.size
    if found.scored:  # and none is left out between two windows
        assert scored.ravel().tolist() == list(range(scored[0, 0], scored[0, 0] + scored.size))


def test_a_text_shorter_than_a_window_is_named_with_its_length(tmp_path):
    for words, tokens in (("", 0), ("a", 1), ("a short one", 11)):
        (tmp_path / "note.txt").write_text(words)
        with pytest.raises(BadInput, match=f"does not fit into the {tokens} tokens of note.txt"):
            cut_windows(byte_tokenizer(300), corpus_of(tmp_path / "note.txt"), Cut(window=16))


def test_more_than_a_reference_holds_is_refused_with_what_it_does():
    tokenizer, corpus = words_of(3000)
    corpus = replace(corpus, text=f"{corpus.text} " * 200)
    with pytest.raises(BadInput, match=r"a reference holds 524288.*--windows 52428 or fewer"):
        cut_windows(tokenizer, corpus, Cut(window=12, windows=0, stride=10, bos="none"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"a\xff.txt", "a\\xff.txt"), (b"b\nc.txt", r"b\nc.txt"), ("Ä b.txt".encode(), "Ä b.txt")],
)
def test_a_text_has_a_name_that_can_be_shown_and_kept(tmp_path, name, shown):
    path = tmp_path / os.fsdecode(name)
    path.write_text("words")
    assert corpus_of(path).name == shown


def test_a_file_without_an_end_is_no_text():
    with pytest.raises(BadInput, match="more than 256 MiB"):
        corpus_of(Path("/dev/zero"))
