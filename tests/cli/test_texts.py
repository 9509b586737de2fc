"""`--text FILE`: any text to judge on, several at once, none of them captured twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from llx.artifact import open_artifact
from llx.bench.fidelity.reference import read_reference
from llx.corpus import evaluation_text
from llx.errors import Lacking
from llx.manifest import REFERENCE
from tests.checkpoints import TINY, random_tensors, write_checkpoint
from tests.cli.test_bad_input import assert_refused

SHORT = ("-p", "8", "-n", "0", "-r", "5", "--no-roofline", "-o", "json")


@pytest.fixture(scope="module")
def house(judged, tmp_path_factory):
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(judged.folder, house / "artifact")
    text = evaluation_text().text
    (house / "novel.txt").write_text(text[:5000])
    (house / "code.txt").write_text(text[9000:12000])
    return house


@pytest.fixture
def inside(house, llx, tmp_path):
    shutil.copytree(house, tmp_path, dirs_exist_ok=True)
    return tmp_path


def judged_on(ended):
    assert ended.code == 0, ended.stderr
    (result,) = json.loads(ended.stdout)
    return [result["fidelity"]["text"], *(one["text"] for one in result["other_texts"])]


def test_an_engine_is_judged_on_each_text_that_is_named_and_each_is_captured_once(inside, llx):
    both = ("--text", "novel.txt", "--text", "code.txt")
    ended = llx("bench", "artifact", *both, *SHORT)
    assert judged_on(ended) == ["novel.txt", "code.txt"]
    (result,) = json.loads(ended.stdout)
    for one in (result["fidelity"], *result["other_texts"]):
        assert one["windows"] == 5
        assert one["window"] == 96  # what the cache holds
        assert one["kld"]["mean"] < 1e-6
        assert abs(one["ppl_ratio"]["value"] - 1) < 1e-3
    references = open_artifact(inside / "artifact").manifest.references
    assert len(references) == 3
    assert references[0] == REFERENCE
    times = {name: (inside / "artifact" / name).stat().st_mtime_ns for name in references}
    assert judged_on(llx("bench", "artifact", "--text", "code.txt", *SHORT)) == ["code.txt"]
    every = judged_on(llx("bench", "artifact", *SHORT))
    assert every[0] is None
    assert set(every[1:]) == {"novel.txt", "code.txt"}
    assert times == {name: (inside / "artifact" / name).stat().st_mtime_ns for name in references}


def test_what_was_captured_of_a_checkpoint_serves_its_other_artifacts(llx, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "novel.txt").write_text(evaluation_text().text[:5000])
    write_checkpoint(tmp_path / "checkpoint")
    for precision in ("fp32", "int8-wo"):
        words = ("--precision", precision, "--context", 96, "-o", precision)
        assert llx("export", "--weights", "checkpoint", *words).code == 0
    words = ("--text", "novel.txt", "--window", 32)
    assert "reference captured" in llx("reference", "fp32", *words).stdout

    def opened(artifact):
        raise AssertionError("PyTorch was opened")

    with monkeypatch.context() as patch:
        patch.setattr("llx.api.reference.open_reference", opened)
        assert "reference captured" in llx("reference", "int8-wo", *words).stdout
        assert "is there already" in llx("reference", "int8-wo", *words).stdout
    one, other = (read_reference(open_artifact(tmp_path / name)) for name in ("fp32", "int8-wo"))
    np.testing.assert_array_equal(one.scores.logits, other.scores.logits)
    assert judged_on(llx("bench", "int8-wo", *SHORT)) == ["novel.txt"]
    # Another checkpoint in its place is another one.
    write_checkpoint(tmp_path / "checkpoint", tensors=random_tensors(TINY, seed=5))
    again = ("--precision", "fp32", "--context", 96, "-o", "again")
    assert llx("export", "--weights", "checkpoint", *again).code == 0
    with monkeypatch.context() as patch:
        patch.setattr("llx.api.reference.open_reference", opened)
        assert "PyTorch was opened" in llx("reference", "again", *words).stderr


WRONG = {
    "not there": (lambda file: None, "text.txt is no text"),
    "a folder": (lambda file: file.mkdir(), "text.txt is no text"),
    "not UTF-8": (lambda file: file.write_bytes(b"\xff\xfe" * 50), "text.txt is no text"),
    "empty": (lambda file: file.write_bytes(b""), "does not fit into the 0 tokens of text.txt"),
    "one token": (lambda file: file.write_bytes(b"a"), "into the 1 tokens of text.txt"),
    "shorter than a window": (lambda file: file.write_text("a word " * 5), "35 tokens of text.txt"),
}


@pytest.mark.parametrize(("write", "part"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", [("reference", "artifact"), ("bench", "artifact", *SHORT)])
def test_a_text_that_is_none_is_refused_in_one_line(inside, llx, command, write, part):
    write(inside / "text.txt")
    before = sorted((inside / "artifact").iterdir())
    assert_refused(llx(*command, "--text", "text.txt"), 2, part)
    assert sorted((inside / "artifact").iterdir()) == before


def test_what_cannot_be_together_is_refused(inside, llx):
    text = ("--text", "novel.txt")
    assert_refused(llx("bench", "artifact", *text, "--no-fidelity"), 2, "leave --text out")
    assert_refused(llx("bench", "artifact", *text, "--quick"), 2, "leave --text out")
    assert_refused(llx("reference", "artifact", *text, "--bos", "last"), 2, "each, first, none")
    assert_refused(llx("reference", "artifact", *text, "--window", 500), 2, "cache of 96")
    assert_refused(llx("reference", "artifact", *text, "--windows", 99), 2, "do not fit")
    assert llx("reference", "artifact", *text, "--stride", 0).code == 2


def test_a_text_that_cannot_be_captured_here_is_told_and_the_others_are_judged(
    inside, llx, monkeypatch
):
    assert llx("reference", "artifact", "--text", "novel.txt").code == 0

    def lacking(artifact):
        raise Lacking("PyTorch is not here", "install it")

    monkeypatch.setattr("llx.api.reference.open_reference", lacking)
    monkeypatch.setenv("XDG_CACHE_HOME", str(inside / "cache"))
    texts = ("--text", "novel.txt", "--text", "code.txt")
    ended = llx("bench", "artifact", *texts, *SHORT)
    assert judged_on(ended) == ["novel.txt"]
    assert "fidelity on code.txt is not measured: PyTorch is not here" in ended.stderr
