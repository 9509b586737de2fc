"""A candidate that was held against the baseline's own distributions, in turns with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llx.reports.compare.gates import GATES, Gate
from llx.reports.compare.pairs import compare_results
from llx.reports.console import show_results
from llx.reports.markdown import results_markdown
from llx.result import Estimate
from tests.reports.made import in_turns


def turned(kld=0.012, same=0.957, ratio=1.021):
    baseline, candidate = in_turns(0.99)
    phase = candidate.fidelity.prefill
    model = replace(
        phase,
        kld=replace(phase.kld, mean=kld, se=0.0004),
        same_top1=Estimate(value=same, se=0.004),
        ppl_ratio=Estimate(value=ratio, se=0.005),
    )
    return baseline, replace(candidate, against=replace(candidate.against, model=model))


def changes_of(*gates, **model):
    baseline, candidate = turned(**model)
    found = compare_results([baseline], [candidate], gates or GATES)
    return found, {change.metric: change for change in found.changes}


def test_it_is_shown_in_the_terminal_and_in_markdown(capsys):
    results = list(turned())
    show_results(results)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for form in (printed, results_markdown(results)):
        assert "0.01200 ± 0.00040" in form
        assert "95.70 ± 0.40 %" in form
    assert "1.0210 ± 0.0050 times the baseline's" in results_markdown(results)


def test_it_is_a_measure_that_fails_nothing_by_itself():
    found, changes = changes_of(kld=3.0, same=0.1)
    assert changes["model KLD"].after == 3.0
    assert changes["model same top-1"].after == 0.1
    assert not found.regressed


@pytest.mark.parametrize(
    ("gate", "fails"),
    [
        ({"metric": "model KLD", "limit": 0.01}, True),
        ({"metric": "model KLD", "limit": 0.02}, False),
        ({"metric": "model KLD", "threshold": 0.01}, True),
        ({"metric": "model KLD", "threshold": 0.02}, False),
        ({"metric": "model same top-1", "limit": 0.96}, True),
        ({"metric": "model same top-1", "threshold": 0.05}, False),
    ],
)
def test_a_gate_may_bound_it(gate, fails):
    found, _ = changes_of(Gate(**gate))
    assert bool(found.regressed) == fails


def test_in_two_runs_apart_there_is_none():
    baseline, candidate = turned()
    apart = replace(baseline, turns=None)
    found = compare_results([apart], [candidate])
    assert "model KLD" not in {change.metric for change in found.changes}
