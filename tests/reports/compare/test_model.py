"""The model itself is judged: a worse one is caught though the export of it is perfect."""

from __future__ import annotations

import csv
import io
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Failure, JUnitXml, Skipped
from scipy import stats

from llx.contradictions import contradictions
from llx.reports.compare.change import Change
from llx.reports.compare.changes import (
    WRITERS,
    changes_markdown,
    changes_writer,
    show_changes,
    verdict_line,
)
from llx.reports.compare.pairs import compare_results
from llx.reports.html.page import page_html
from llx.reports.html.plots import changes_plot
from llx.reports.html.runs import Looks
from llx.statistics import paired_ratio
from tests.reports.pairs import judged

COUNT = 2555
COSTS = np.random.default_rng(0).exponential(2.5, COUNT)  # of tokens, in nats


def of_model(worse=0.0, scatter=0.0, seed=1, artifact="ab", kept=True, count=COUNT, **changes):
    """A judged result whose tokens cost that much more on average, scattered by so much."""
    off = np.random.default_rng(seed).normal(0, scatter, count) if scatter else np.zeros(count)
    nll = np.clip(COSTS[:count] + off - off.mean() + worse, 0, None)
    found = judged(**changes)
    phase = replace(found.fidelity.prefill, ppl=float(np.exp(nll.mean())), tokens=count)
    prefill = replace(phase, nll=nll.tolist() if kept else [])
    fidelity = replace(found.fidelity, prefill=prefill, decode=phase, tokens=count)
    record = replace(found.artifact, sha256=artifact * 32)
    return replace(found, fidelity=fidelity, artifact=record)


def changes_of(before, after):
    found = compare_results([before], [after])
    return found, {change.metric: change for change in found.changes}


def test_a_ruined_model_whose_export_is_perfect_regresses_with_the_reason():
    found, changes = changes_of(of_model(), of_model(worse=1.33, artifact="cd"))
    assert {one.metric for one in found.regressed} == {"PPL prefill", "PPL decode"}
    assert changes["PPL prefill"].ratio == pytest.approx(np.exp(1.33), rel=0.02)
    assert "PPL prefill on ort" in verdict_line(found)
    assert "🔴" in changes_markdown(found)


@pytest.mark.parametrize(
    ("worse", "verdict"),
    [(0.006, "regressed"), (0.0, "no change"), (0.004, "no change"), (-0.012, "improved")],
)
def test_a_mildly_worse_one_is_told_from_an_equal_one_token_by_token(worse, verdict):
    """Alone, the perplexities are known to 5 %; of the same tokens the ratio is known to 0.4 %."""
    found, changes = changes_of(of_model(), of_model(worse, scatter=0.07, artifact="cd"))
    change = changes["PPL prefill"]
    assert change.verdict == verdict
    low, high = change.ci95
    assert low < np.exp(worse) < high
    assert high - low < 0.01
    assert bool(found.regressed) == (verdict == "regressed")


def test_what_these_tokens_cannot_tell_is_inconclusive_and_without_them_the_number_counts():
    worse = {"worse": 0.02, "scatter": 0.5, "count": 200, "artifact": "cd"}
    _, changes = changes_of(of_model(count=200), of_model(**worse))
    assert changes["PPL prefill"].verdict == "inconclusive"
    assert changes["PPL prefill"].why == "too few tokens to tell"
    assert changes["PPL decode"].verdict == "regressed"
    _, changes = changes_of(of_model(count=200, kept=False), of_model(**worse))
    assert changes["PPL prefill"].verdict == "regressed"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({"tokens_sha256": "a" * 64}, {"tokens_sha256": "b" * 64}, "another tokenizer"),
        ({"corpus_sha256": "a" * 64}, {"corpus_sha256": "b" * 64}, "another text"),
        ({"window": 512}, {"window": 256}, "another window"),
    ],
)
def test_of_other_tokens_nothing_is_said_but_that_and_that_is_said_first(
    capsys, before, after, why
):
    found, changes = changes_of(of_model(**before), of_model(1.3, artifact="cd", **after))
    assert changes["PPL prefill"].verdict == "not comparable"
    assert why in changes["PPL prefill"].why
    (said,) = found.unjudged
    assert why in said
    show_changes(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("WARNING: ort with ")
    assert changes_markdown(found).startswith("**⚠ ")
    page = page_html([found.pairs[0][1]], baseline=[found.pairs[0][0]])
    assert page.index("NOT COMPARED") < page.index("INCONCLUSIVE")


def test_a_perplexity_is_in_no_plot_of_speeds():
    """To the right would be faster there, and a larger perplexity is worse."""
    changes = compare_results([of_model()], [of_model(0.02, 0.07, artifact="cd")]).changes
    looks = Looks.of(["ort"], ["fp32"])
    assert {row["name"] for row in changes_plot(changes, looks).rows} == {"ort fp32 · tg128"}


def test_another_artifact_that_nobody_judged_is_a_warning_and_the_same_one_is_none():
    unjudged = replace(of_model(artifact="cd"), fidelity=None, unjudged="no PyTorch here")
    found, _ = changes_of(of_model(), unjudged)
    assert "no PyTorch here" in found.unjudged[0]
    found, _ = changes_of(replace(of_model(), fidelity=None), of_model(artifact="cd"))
    assert "the baseline was not judged" in found.unjudged[0]
    same = replace(of_model(), fidelity=None)
    assert changes_of(same, same)[0].unjudged == []
    assert changes_of(of_model(), of_model(artifact="cd"))[0].unjudged == []


@pytest.mark.parametrize("cost", [0.0, 700.0, 1e4, 1e300])
def test_costs_that_nobody_measured_end_in_a_verdict(cost):
    ruined = of_model(artifact="cd", count=3)
    phase = replace(ruined.fidelity.prefill, nll=[cost, 0.0, cost])
    ruined = replace(ruined, fidelity=replace(ruined.fidelity, prefill=phase))
    found, changes = changes_of(of_model(count=3), ruined)
    assert changes["PPL prefill"].verdict in ("inconclusive", "regressed", "no change")
    assert all(writer(found) for writer in map(changes_writer, WRITERS))
    next(contradictions([ruined]), None)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=2, max_size=60).filter(
        lambda pairs: len({a - b for a, b in pairs}) > 1
    )
)
def test_the_ratio_is_that_of_the_perplexities_and_its_interval_scipys(pairs):
    first, second = map(np.array, zip(*pairs, strict=True))
    found = paired_ratio(first, second)
    assert found.ratio == pytest.approx(np.exp(second.mean()) / np.exp(first.mean()), rel=1e-9)
    wanted = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert np.log([found.low, found.high]) == pytest.approx(
        [wanted.low, wanted.high], rel=1e-6, abs=1e-9
    )


def test_junit_has_a_case_for_every_measure_with_its_verdict():
    found, _ = changes_of(of_model(), of_model(worse=1.33, artifact="cd"))
    parsed = JUnitXml.fromstring(changes_writer("junit")(found).encode())
    outcomes = {case.name: [type(one) for one in case.result] for s in parsed for case in s}
    assert set(outcomes) == {change.metric for change in found.changes}
    assert outcomes["PPL prefill"] == [Failure]
    assert outcomes["KLD prefill"] == []
    assert outcomes["tg128"] == [Skipped]  # two runs apart
    assert (parsed.failures, parsed.tests) == (2, len(found.changes))
    unjudged = changes_of(replace(of_model(), fidelity=None), of_model(artifact="cd"))[0]
    assert 'name="the model"' in changes_writer("junit")(unjudged)


def test_csv_has_all_that_is_known_of_a_change():
    found, _ = changes_of(of_model(), of_model(worse=1.33, scatter=0.1, artifact="cd"))
    rows = list(csv.DictReader(io.StringIO(changes_writer("csv")(found))))
    (row,) = [one for one in rows if one["metric"] == "PPL prefill"]
    assert set(row) == {f.name for f in fields(Change)} - {"ci95"} | {"ci95_low", "ci95_high"}
    assert float(row["ci95_low"]) < float(row["ratio"]) < float(row["ci95_high"])
    assert row["verdict"] == "regressed"


def test_a_workflow_is_told_each_regression_and_the_verdict():
    found = compare_results([judged()], [judged(kld=0.5)])
    *errors, notice = changes_writer("github")(found).splitlines()
    assert [line.split("::")[1] for line in errors] == [
        "error title=KLD prefill regressed on ort",
        "error title=KLD decode regressed on ort",
    ]
    assert "0.01 nats → 0.5 nats" in errors[0]
    assert "by more than 10 %25" in errors[0]
    assert notice.startswith("::notice title=llx compare::REGRESSED")


def test_what_results_say_is_no_command_to_a_workflow():
    name = "x::y\n::stop-commands::z%0A,title=q"
    one, other = (replace(judged(kld), engine=name) for kld in (0.01, 0.5))
    lines = changes_writer("github")(compare_results([one], [other])).splitlines()
    assert len(lines) == 3
    for line in lines:
        _, head, _ = line.split("::", 2)
        title = head.split("title=")[1]
        assert ":" not in title
        assert "," not in title
        assert "%0A" not in line.replace("%250A", "")
