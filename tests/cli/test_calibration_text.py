"""`llx export --calibration-text FILE`: what it decides, and what is refused."""

from __future__ import annotations

import hashlib

import pytest

from llx.artifact import open_artifact
from llx.corpus import evaluation_text
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused, names_in

TEXT = evaluation_text().text[:4000]
OTHER = evaluation_text().text[4000:8000]


def ask(precision, text, *more):
    words = ("export", "--weights", "tiny", "--precision", precision, "--calibration-windows", 2)
    return (*words, "--calibration-text", text, *more)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "tiny")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_text_decides_and_not_where_it_lies(llx, checkpoint, tmp_path, precision):
    (tmp_path / "one.txt").write_text(TEXT)
    (tmp_path / "same.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(OTHER)
    first = llx(*ask(precision, "one.txt", "-o", "out"))
    assert (first.code, first.stderr) == (0, "")
    assert "one.txt" in first.stdout
    record = open_artifact(tmp_path / "out").manifest.quantization
    assert (record.corpus, record.windows) == ("one.txt", 2)
    assert record.corpus_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    again = llx(*ask(precision, tmp_path / "same.txt", "-o", "out"))
    assert (again.code, again.stderr) == (0, "")
    assert "nothing to do" in again.stdout

    assert_refused(llx(*ask(precision, "other.txt", "-o", "out")), 2, "holds another export")
    (tmp_path / "one.txt").write_text(OTHER)
    assert_refused(llx(*ask(precision, "one.txt", "-o", "out")), 2, "holds another export")
    before = open_artifact(tmp_path / "out").sha256
    replaced = llx(*ask(precision, "other.txt", "-o", "out", "--overwrite"))
    assert (replaced.code, replaced.stderr) == (0, "")
    assert open_artifact(tmp_path / "out").manifest.quantization.corpus == "other.txt"
    assert open_artifact(tmp_path / "out").sha256 != before


TEXTS = {
    "missing": (lambda path: None, ("is no text", "No such file", "UTF-8")),
    "a folder": (lambda path: path.mkdir(), ("is no text", "UTF-8")),
    "not UTF-8": (lambda path: path.write_bytes(b"caf\xe9 " * 999), ("is no text", "UTF-8")),
    "empty": (lambda path: path.touch(), ("fit into the 0 tokens of text", "fewer")),
    "too short": (
        lambda path: path.write_text(TEXT[:200]),
        ("windows of 96 tokens do not fit into the 200 tokens of text", "fewer"),
    ),
}


@pytest.mark.parametrize(("write", "parts"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_text_that_is_none_is_refused_in_one_line(
    llx, checkpoint, tmp_path, precision, write, parts
):
    write(tmp_path / "text")
    before = names_in(tmp_path)
    assert_refused(llx(*ask(precision, "text", "-o", "out")), 2, *parts)
    assert names_in(tmp_path) == before


REFUSED = {
    "nothing is quantized": (("--weights", "tiny", "--precision", "fp16"), "quantizes nothing"),
    "no window of it": (
        ("--weights", "tiny", "--precision", "int4", "--calibration-windows", 0),
        "give one window or more",
    ),
    "random weights": (
        ("--size", "135m", "--weights", "random", "--precision", "int8"),
        "leave --calibration-text out",
    ),
    "graphs alone": (
        ("--size", "135m", "--weights", "none", "--precision", "int8"),
        "leave --calibration-text out",
    ),
}


@pytest.mark.parametrize(("words", "part"), REFUSED.values(), ids=REFUSED)
def test_a_text_that_nothing_would_be_calibrated_on_is_refused(
    llx, checkpoint, tmp_path, words, part
):
    (tmp_path / "text").write_text(TEXT)
    assert_refused(llx("export", *words, "--calibration-text", "text"), 2, part)
    assert names_in(tmp_path) == ["text", "tiny"]


def test_one_of_our_own_is_named_in_a_word_and_a_file_of_that_name_by_a_path(
    llx, checkpoint, tmp_path
):
    (tmp_path / "self").write_text(TEXT)
    for text, written in (("self", 2), ("docs", 0), ("./self", 0)):
        ended = llx(*ask("int8-wo", text, "-o", "out", "--overwrite"))
        assert (ended.code, ended.stderr) == (0, "")
        record = open_artifact(tmp_path / "out").manifest.quantization
        assert (record.windows, record.written) == (2, written)
        assert (record.corpus == "self") == (text == "./self")
    assert_refused(llx(*ask("int8-wo", "self", "-o", "out")), 2, "holds another export")
