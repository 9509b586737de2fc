"""The text of calibration and the text of judgement have nothing in common."""

from __future__ import annotations

import pytest

from llx.corpus import WINDOW, calibration_text, cut_windows, evaluation_text
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
        for row in cut_windows(tokenizer, text, WINDOW, 16).tokens:
            window = tokenizer.decode(row.tolist())
            assert window in text.text
            assert window not in other.text


def test_the_texts_are_told_apart_by_name_and_hash():
    one, other = calibration_text(), evaluation_text()
    assert one.name != other.name
    assert one.sha256 != other.sha256


def test_windows_that_do_not_fit_into_the_text_are_refused():
    with pytest.raises(BadInput, match="1000 windows of 512 tokens do not fit"):
        cut_windows(byte_tokenizer(300), calibration_text(), 512, 1000)
