"""What `-o` may name, in every command that has it: one line and the right code, or what is due."""

from __future__ import annotations

import os
import stat

import pytest

from llx.artifact import open_artifact
from llx.result import encode_results
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused, names_in
from tests.reports.made import result


@pytest.fixture
def here(tmp_path):
    """A folder with a checkpoint and a file of results, deep enough for `..`."""
    write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "results.json").write_bytes(encode_results([result()]))
    (tmp_path / "a file").write_text("kept")
    return tmp_path


EXPORT = ("export", "--weights", "checkpoint")
REPORT = ("report", "results.json")
REFUSED = {
    "a folder that one stands in": (EXPORT, (".", "..", "/", "./", "../.."), "you are in"),
    "a file": (EXPORT, ("a file", "a file/", "results.json"), "a folder of its own"),
    "below a file": (EXPORT, ("a file/deeper",), "a file"),
    "a device": (EXPORT, ("/dev/null", "/dev/stdout"), "-o"),
    "what is exported": (EXPORT, ("checkpoint",), "choose another folder"),
    "an empty path": (EXPORT, ("", " "), "an empty path"),
    "a report in a file": (REPORT, ("a file", "/dev/null", "a file/deeper"), "another folder"),
    "a report nowhere": (REPORT, ("",), "an empty path"),
    "a selftest in a folder": (("selftest",), (".", "/", "checkpoint"), "name a file"),
    "a selftest in a slash": (("selftest",), ("new/",), "name a file"),
    "a selftest nowhere": (("selftest",), ("",), "an empty path"),
}


@pytest.mark.parametrize(("words", "names", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused_and_nothing_is_touched(llx, here, words, names, says):
    before = names_in(here)
    for name in names:
        assert_refused(llx(*words, "-o", name), 2, says)
        assert names_in(here) == before
    assert (here / "a file").read_text() == "kept"


@pytest.mark.parametrize(
    "words",
    [("bench", "x"), ("eval", "x", "--tasks", "t"), ("plan", "--size", "7b")],
    ids=lambda words: words[0],
)
def test_a_format_that_is_none(llx, here, words):
    for name in ("", ".", "/", "out/"):
        assert_refused(llx(*words, "-o", name), 2, "unknown format")


@pytest.mark.slow
def test_a_report_goes_into_the_folder_that_one_stands_in(llx, here):
    os.chmod(here / "results.json", 0o600)
    assert llx(*REPORT, "-o", ".").code == 0
    assert {"index.html", "report.md"} <= set(names_in(here))


@pytest.mark.slow
def test_an_export_follows_a_link_and_makes_the_folders_above(llx, here):
    assert llx(*EXPORT, "-o", "far/away/out/").code == 0
    (here / "link").symlink_to("far/away/out")
    ended = llx(*EXPORT, "-o", "link", "--context", "32", "--overwrite")
    assert ended.code == 0, ended.stderr
    assert (here / "link").is_symlink()
    assert open_artifact(here / "far/away/out").manifest.contract.limits.capacity == 32
    assert names_in(here / "far/away") == ["out"]


def test_a_checkpoint_within_the_artifact_is_not_replaced_with_it(llx, here):
    assert llx(*EXPORT, "-o", "out").code == 0
    (here / "checkpoint").rename(here / "out" / "checkpoint")
    ended = llx("export", "--weights", "out/checkpoint", "-o", "out", "--overwrite")
    assert_refused(ended, 2, "lies in out", "choose another folder")
    assert (here / "out" / "checkpoint" / "config.json").exists()


def test_an_export_that_cannot_be_remembered_is_done_all_the_same(llx, here):
    (here / "artifacts").write_text("a file")
    ended = llx(*EXPORT, "-o", "out")
    assert ended.code == 0
    assert "do not take out by default" in ended.stderr
    assert open_artifact(here / "out").damaged() == []


@pytest.mark.slow
def test_the_modes_of_results_stay_as_they_are(llx, here):
    assert llx(*REPORT, "-o", "page", "--history", "history.jsonl").code == 0
    for name in ("page/report.md", "history.jsonl"):
        (here / name).chmod(0o600)
    assert llx(*REPORT, "-o", "page", "--history", "history.jsonl").code == 0
    for name in ("page/report.md", "history.jsonl"):
        assert stat.S_IMODE((here / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (("check", "-o", "{}/p.html"), "llx.api.check.findings"),
        (("check", "-o", "{}/p.json"), "llx.api.check.findings"),
        (("doctor", "--bundle", "{}/x.json"), "llx.api.doctor.states"),
    ],
)
@pytest.mark.parametrize("where", ["/nosuch/dir", "/proc", "file"])
def test_where_output_goes_is_tried_before_the_work(llx, here, monkeypatch, words, work, where):
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("it was begun"))
    (here / "file").write_bytes(b"")
    ended = llx(*(word.format(where) for word in words))
    assert ended.code == 2, ended.stderr
    assert where in ended.stderr
    assert ".partial" not in ended.stderr
