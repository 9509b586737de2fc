"""Two measured in turns: whose turn it is, what is compared, and the verdict."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import log_softmax

from llx.api.reference import open_reference
from llx.bench import run as running
from llx.bench.against import InTurns, compared
from llx.bench.clock import now_ns
from llx.bench.fidelity.reference import capture, read_reference
from llx.bench.sessions.ort import OrtSession
from llx.bench.speed.rows import speed_row
from llx.bench.speed.samples import Samples, SpeedTest, Workload
from llx.bench.speed.steps import prefill_logits
from llx.bench.worker import Outcome, run_scenario
from llx.corpus import Cut
from llx.errors import BadInput
from llx.precision import PRECISIONS
from llx.result import MemoryRecord
from tests.checkpoints import TINY, random_tensors
from tests.conftest import export_tiny

WORKLOAD = Workload(prompts=(8,), generated=(4,), repetitions=5)
ONE_ROUND = 5  # repetitions at most: a noisy machine adds no round


@pytest.fixture
def unjudged(job):
    return replace(job, fidelity=False, workload=replace(job.workload, most_repetitions=ONE_ROUND))


PP8 = SpeedTest(isl=8, osl=0, depth=0, batch=1)


def row(speeds, test=PP8, **changes):
    step_ns = [[round(test.counted / speed * 1e9)] for speed in speeds]
    made = speed_row(Samples(test, step_ns, None, []), WORKLOAD, TINY, PRECISIONS["fp32"])
    return replace(made, **changes)


def speeds(count, noise, seed, faster=1.0):
    return 100 * faster * np.exp(np.random.default_rng(seed).normal(0, noise, count))


def test_both_are_measured_and_the_baseline_twice_as_often(unjudged):
    turns = InTurns(unjudged, replace(unjudged, engine="torch"))
    turns.run()
    baseline, candidate = turns.results()
    assert (baseline.engine, candidate.engine) == ("torch", "ort")
    assert [len(one.samples) for one in baseline.speed] == [10, 10]
    assert [len(one.samples) for one in candidate.speed] == [5, 5]
    assert baseline.turns == candidate.turns
    assert baseline.against is None
    assert candidate.against.engine == "torch"
    assert candidate.against.artifact_sha256 == baseline.artifact.sha256
    assert [one.test for one in candidate.against.tests] == ["pp8", "tg4"]
    for one, theirs, ours in zip(
        candidate.against.tests, baseline.speed, candidate.speed, strict=True
    ):
        around = np.log(theirs.samples).reshape(-1, 2).mean(1)
        ratio = np.exp((np.log(ours.samples) - around).mean())
        assert one.ratio == pytest.approx(ratio, rel=0.3)  # a mean of logarithms, or a median
        assert one.ci95[0] <= one.ratio <= one.ci95[1]


def logits_of(artifact, tokens):
    """What the artifact's own graph says of windows [W, N], [W, N - 1, V]."""
    session = OrtSession(artifact, 1)
    found = []
    for window in tokens:
        session.reset()
        found.append(
            np.concatenate([part[0].copy() for part in prefill_logits(session, window[None, :-1])])
        )
    session.close()
    return np.stack(found).astype(np.float64)


def test_a_candidate_is_held_against_what_the_baseline_says_of_the_same_tokens(job, tmp_path):
    other = export_tiny(tmp_path, "fp32", tensors=random_tensors(TINY, seed=5))
    cut = Cut(window=64, windows=3)
    other = capture(other, open_reference, cut).artifact
    quick = replace(job, workload=replace(job.workload, generated=(), most_repetitions=ONE_ROUND))
    turns = InTurns(replace(quick, folder=other.folder), quick)
    turns.run()
    _, candidate = turns.results()
    model = candidate.against.model
    mine = job.artifact()
    tokens = read_reference(mine).scores.tokens
    p, q = (log_softmax(logits_of(one, tokens), -1) for one in (mine, other))
    exact = (np.exp(p) * (p - q)).sum(-1)
    assert exact.mean() > 0.01
    assert model.tokens == exact.size
    assert model.kld_bound <= exact.mean() + 1e-6
    assert model.kld.mean == pytest.approx(exact.mean(), rel=0.05)
    same = (p.argmax(-1) == q.argmax(-1)).mean()
    assert model.same_top1.value == pytest.approx(same, abs=0.02)
    costs = [np.take_along_axis(one, tokens[:, 1:, None], -1).mean() for one in (p, q)]
    assert model.ppl_ratio.value == pytest.approx(np.exp(costs[0] - costs[1]), rel=1e-4)


def test_an_engine_against_another_of_the_same_weights_is_as_good_as_the_same(job):
    quick = replace(job, workload=replace(job.workload, generated=(), most_repetitions=ONE_ROUND))
    turns = InTurns(quick, replace(quick, engine="torch"))
    turns.run()
    _, candidate = turns.results()
    assert candidate.against.model.kld.mean < 1e-6
    assert candidate.against.model.same_top1.value > 0.99


def test_without_the_same_tokens_nothing_is_held_against_anything(job, unjudged, tmp_path):
    other = capture(export_tiny(tmp_path), open_reference, Cut(window=32, windows=3)).artifact
    quick = replace(job, workload=replace(job.workload, generated=(), most_repetitions=ONE_ROUND))
    for candidate, baseline in ((replace(quick, folder=other.folder), quick), (unjudged, unjudged)):
        turns = InTurns(candidate, baseline)
        turns.run()
        assert turns.results()[1].against.model is None
        assert turns.results()[1].failed == []


def writes_when(scenario, progress):
    """Runs the scenario, and writes down when each of its repetitions began and ended."""
    take = scenario.turns.take
    log = open(scenario.job.command, "a", buffering=1)  # noqa: SIM115

    class Logged:
        @contextmanager
        def take(self):
            with take():
                log.write(f"{scenario.job.engine} begins {now_ns()}\n")
                yield
                log.write(f"{scenario.job.engine} ends {now_ns()}\n")

    return run_scenario(replace(scenario, turns=Logged()), progress)


def test_one_at_a_time_has_the_turn_and_the_baseline_is_on_both_sides(
    unjudged, monkeypatch, tmp_path
):
    monkeypatch.setattr(running, "run_scenario", writes_when)
    log = tmp_path / "log"
    one = replace(unjudged, command=str(log), workload=replace(unjudged.workload, generated=()))
    turns = InTurns(one, replace(one, engine="torch"))
    turns.run()
    events = [line.split() for line in log.read_text().splitlines()]
    ordered = sorted(events, key=lambda event: int(event[2]))
    assert [event[:2] for event in ordered] == [event[:2] for event in events]
    for (engine, begins, _), (same, ends, _) in zip(ordered[::2], ordered[1::2], strict=True):
        assert (engine, begins, same, ends) == (engine, "begins", engine, "ends")
    order = "".join(event[0][0] for event in ordered[::2])
    # A warm-up, five repetitions, and the audit of each, whose turn comes at the end.
    assert order == "tot" * 6 + "to"
    assert all(int(a[2]) <= int(b[2]) for a, b in pairwise(ordered))


def pretends(noise, scenario):
    """An outcome of made-up times, in which engine ort is 10 % slower than any other."""
    work, test = scenario.job.workload, scenario.test
    rng = np.random.default_rng([*scenario.job.engine.encode()])
    slower = 1 / 0.9 if scenario.job.engine == "ort" else 1.0
    times = 1e6 * slower * np.exp(rng.normal(0, noise, (work.repetitions, 1)))
    return Outcome(
        weights="none",
        details={"threads": 1},
        memory=MemoryRecord(peak_host_bytes=1000 * (scenario.job.engine == "ort")),
        load_s=0.1,
        samples=Samples(test, times.round().astype(int).tolist(), None, []),
    )


def is_steady(scenario, progress):
    return pretends(0.002, scenario)


def is_noisy(scenario, progress):
    return pretends(0.5, scenario)


@pytest.mark.parametrize(
    ("session", "rounds", "verdict"),
    [
        (is_steady, 1, "slower"),
        pytest.param(is_noisy, 2, "inconclusive", marks=pytest.mark.slow),
    ],
)
def test_rounds_go_on_until_there_is_a_verdict_or_repetitions_run_out(
    unjudged, monkeypatch, session, rounds, verdict
):
    monkeypatch.setattr(running, "run_scenario", session)
    work = Workload(prompts=(8,), generated=(), repetitions=5, most_repetitions=14)
    turns = InTurns(replace(unjudged, workload=work), replace(unjudged, engine="torch"))
    news = []
    turns.run(lambda *what: news.append(what))
    baseline, candidate = turns.results()
    assert [len(one.samples) for one in candidate.speed] == [5 * rounds]
    assert [len(one.samples) for one in baseline.speed] == [10 * rounds]
    assert [one.verdict for one in candidate.against.tests] == [verdict]
    assert candidate.speed[0].memory.peak_host_bytes == 1000
    assert len(candidate.time.loads_s) == rounds


@pytest.mark.slow
def test_a_repetition_a_round_comes_to_a_verdict_too(unjudged, monkeypatch):
    monkeypatch.setattr(running, "run_scenario", is_steady)
    work = Workload(prompts=(8,), generated=(), repetitions=1, most_repetitions=12)
    turns = InTurns(replace(unjudged, workload=work), replace(unjudged, engine="torch"))
    turns.run()
    _, candidate = turns.results()
    assert [one.verdict for one in candidate.against.tests] == ["slower"]
    assert 5 <= len(candidate.speed[0].samples) < 12


def dies_on_its_second_turn(scenario, progress):
    if scenario.job.engine == "torch" and scenario.name == "pp8":
        with scenario.turns.take():
            pass
        with scenario.turns.take():
            os.kill(os.getpid(), signal.SIGKILL)
    return run_scenario(scenario, progress)


@pytest.mark.slow
def test_one_that_dies_leaves_the_other_to_its_end(unjudged, monkeypatch):
    monkeypatch.setattr(running, "run_scenario", dies_on_its_second_turn)
    turns = InTurns(unjudged, replace(unjudged, engine="torch"))
    turns.run()
    baseline, candidate = turns.results()
    assert [one.test for one in baseline.failed] == ["pp8"]
    assert [one.test for one in candidate.speed] == ["pp8", "tg4"]
    assert [one.test for one in candidate.against.tests] == ["tg4"]


def test_where_one_cannot_run_the_other_is_measured_by_itself(unjudged):
    turns = InTurns(unjudged, replace(unjudged, engine="trt"))
    turns.run()
    baseline, candidate = turns.results()
    assert baseline.error.exit_code == 3
    assert [one.test for one in candidate.speed] == ["pp8", "tg4"]
    assert candidate.against.tests == []


def test_repetitions_without_a_known_number_are_refused(unjudged):
    with pytest.raises(BadInput, match="cannot be taken in turns"):
        InTurns(replace(unjudged, workload=replace(unjudged.workload, until=0.01)), unjudged)


def test_going_on_with_another_days_turns_is_refused(unjudged):
    with pytest.raises(BadInput, match="on another day"):
        InTurns(replace(unjudged, resume=True), unjudged)


@pytest.mark.parametrize(
    ("faster", "wanted"), [(1.0, "no change"), (0.9, "slower"), (1.12, "faster")]
)
def test_over_many_runs_the_verdict_is_right(faster, wanted):
    found = []
    for seed in range(200):
        theirs, ours = row(speeds(20, 0.015, seed)), row(speeds(10, 0.015, 10**6 + seed, faster))
        found += [one.verdict for one in compared([theirs], [ours])]
    assert found.count(wanted) >= 190


def test_what_the_machine_does_to_both_is_no_change():
    drift = np.linspace(1, 0.7, 30)  # it slows down by a third
    rng = np.random.default_rng(0)
    cycle = 100 * drift * np.exp(rng.normal(0, 0.005, 30))
    theirs, ours = row(np.delete(cycle, np.s_[1::3])), row(cycle[1::3])
    (one,) = compared([theirs], [ours])
    assert one.verdict == "no change"
    assert one.ratio == pytest.approx(1, abs=0.01)


def test_a_machine_too_noisy_for_the_threshold_decides_nothing():
    theirs, ours = row(speeds(10, 0.2, 1)), row(speeds(5, 0.2, 2, 0.7))
    (one,) = compared([theirs], [ours])
    assert one.noise > 0.05
    assert one.verdict == "inconclusive"


def test_an_invalid_row_decides_nothing():
    theirs, ours = row(speeds(20, 0.01, 1)), row(speeds(10, 0.01, 2, 0.7))
    assert compared([theirs], [ours])[0].verdict == "slower"
    cheats = replace(ours, valid=False, invalid_reason="the session stops early")
    assert compared([theirs], [cheats])[0].verdict == "inconclusive"


def test_what_was_not_measured_in_turns_is_not_compared():
    assert compared([row(speeds(10, 0.01, 1))], [row(speeds(10, 0.01, 2))]) == []


def test_tests_of_one_alone_are_not_compared():
    other = row(speeds(20, 0.01, 1), test=SpeedTest(isl=16, osl=0, depth=0, batch=1))
    assert compared([other], [row(speeds(10, 0.01, 2))]) == []
