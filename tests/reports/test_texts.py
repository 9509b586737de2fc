"""A result that was judged on several texts: each has its numbers, under its name, everywhere."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
from junitparser import JUnitXml

from llx.errors import BadInput
from llx.reports.compare.gates import Gate
from llx.reports.compare.pairs import compare_results
from llx.reports.console import show_results
from llx.reports.formats import FORMATS, left_out
from llx.reports.html.page import page_html
from llx.reports.html.plots import plots_of
from llx.reports.html.runs import Looks, runs_of
from llx.result import Estimate, encode_results, read_results
from tests.reports.made import FIDELITY
from tests.reports.pairs import judged


def on(text, kld=0.01, ppl=20.0, **changes):
    """Fidelity on a user's text."""
    phase = FIDELITY.prefill
    phase = replace(phase, kld=replace(phase.kld, mean=kld), ppl=ppl)
    phase = replace(phase, ppl_ratio=Estimate(value=1 + kld, se=0.001))
    changes = {"corpus": text, "corpus_sha256": text.encode().hex(), "text": text} | changes
    return replace(FIDELITY, prefill=phase, decode=phase, kld=phase.kld, ppl=ppl, **changes)


def on_texts(*texts, **changes):
    """A result that was judged on llx's own text and on others."""
    return replace(judged(**changes), other_texts=[on(*one) for one in texts])


LOOKS = Looks.of(["ort"], ["fp32"])
BOTH = on_texts(("novel.txt", 0.0731), ("code.txt", 0.0217))


def test_every_form_names_every_text(capsys):
    page = page_html([BOTH])
    show_results([BOTH])
    forms = [write([BOTH]) for name, write in FORMATS.items() if name != "csv"]
    for form in (page, capsys.readouterr().out, repr(BOTH), BOTH._repr_html_(), *forms):
        assert "novel.txt" in form
        assert "code.txt" in form
    assert "Fidelity by text" in page
    assert "Fidelity by text" not in page_html([judged()])
    assert "0.0731" in page
    (said,) = left_out("csv", [BOTH])
    assert "novel.txt, code.txt" in said


def test_the_table_has_a_text_only_where_there_is_a_users():
    assert "| text |" in FORMATS["md"]([BOTH])
    assert "| text |" not in FORMATS["md"]([judged()])
    assert "the last 256 tokens of each window scored" in FORMATS["md"](
        [replace(judged(), other_texts=[on("novel.txt", scored=256)])]
    )


def test_junit_has_a_case_for_each_text():
    (suite,) = JUnitXml.fromstring(FORMATS["junit"]([BOTH]).encode())
    names = {case.name for case in suite}
    assert {"fidelity", "fidelity, novel.txt", "fidelity, code.txt"} <= names


def test_each_text_is_compared_with_itself_whatever_the_order():
    after = on_texts(("code.txt", 0.0217, 20.3), ("novel.txt", 0.1, 20.0))
    found = compare_results([BOTH], [after])
    assert {one.metric for one in found.regressed} == {
        *("PPL prefill, code.txt", "PPL decode, code.txt"),
        *("KLD prefill, novel.txt", "KLD decode, novel.txt"),
        *("PPL ratio prefill, novel.txt", "PPL ratio decode, novel.txt"),
    }


def test_a_text_that_only_the_baseline_has_is_told_and_a_gate_may_require_it():
    after = on_texts(("code.txt", 0.0217))
    changes = {one.metric: one for one in compare_results([BOTH], [after]).changes}
    assert changes["KLD prefill, code.txt"].verdict == "no change"
    assert changes["KLD prefill, novel.txt"].verdict == "inconclusive"
    gates = [Gate(metric="KLD prefill, novel.txt", threshold="10%", required=True)]
    assert [one.metric for one in compare_results([BOTH], [after], gates).regressed] == [
        "KLD prefill, novel.txt"
    ]
    with pytest.raises(BadInput, match="no measure of these results fits"):
        compare_results([BOTH], [after], [Gate(metric="KLD prefill, poem.txt", threshold="10%")])


def test_another_cut_of_a_text_is_not_the_same_text():
    before = replace(judged(), fidelity=on("novel.txt"))
    after = replace(before, fidelity=on("novel.txt", scored=256))
    changes = {one.metric: one for one in compare_results([before], [after]).changes}
    assert changes["KLD prefill, novel.txt"].verdict == "not comparable"
    assert changes["KLD prefill, novel.txt"].why == "judged on other tokens: another overlap"
    both = replace(before, other_texts=[on("novel.txt", window=2048), on("novel.txt", window=2048)])
    assert list(both.judged()) == ["novel.txt", "novel.txt@2048", "novel.txt@2048#2"]
    swapped = replace(both, fidelity=both.other_texts[0], other_texts=[both.fidelity])
    changes = {one.metric: one for one in compare_results([both], [swapped]).changes}
    assert changes["KLD prefill, novel.txt"].verdict == "no change"
    assert changes["KLD prefill, novel.txt@2048"].verdict == "no change"


def test_it_is_read_again_as_it_was_written(tmp_path):
    (tmp_path / "results.json").write_bytes(encode_results([BOTH]))
    assert read_results(tmp_path / "results.json") == [BOTH]


def test_the_plot_over_position_is_of_one_text_and_says_so():
    drawn = next(one for one in plots_of(runs_of([BOTH], LOOKS)) if one.kind == "positions")
    assert {row["series"] for row in drawn.rows} == {"ort fp32 · prefill", "ort fp32 · decode"}
    assert "On one text: Python's docs." in drawn.caption
    alone = next(one for one in plots_of(runs_of([judged()], LOOKS)) if one.kind == "positions")
    assert "On one text" not in alone.caption


def calibrated(on, text):
    artifact = replace(BOTH.artifact, calibrated_on=on)
    fidelity = replace(BOTH.fidelity, corpus=text)
    return replace(BOTH, artifact=artifact, fidelity=fidelity, precision="int4")


@pytest.mark.parametrize(
    ("on", "text", "named"),
    [
        ("docs of Python 3.11, first half", "docs of Python 3.11, second half", "Python's docs"),
        ("docs of Python 3.11, first half", "another", None),
        ("novel.txt", "docs of Python 3.11, second half", "novel.txt"),
        (None, "docs of Python 3.11, second half", None),
    ],
)
def test_a_reader_is_warned_of_a_text_of_the_kind_that_was_calibrated_on(capsys, on, text, named):
    result = calibrated(on, text)
    show_results([result])
    for form in (" ".join(capsys.readouterr().out.split()), html.unescape(page_html([result]))):
        for name in ("Python's docs", "novel.txt", "code.txt"):
            assert (f"{name}: text of the kind" in form) == (name == named)
