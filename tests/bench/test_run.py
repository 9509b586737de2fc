"""The harness: what a crash, a hang, a kill and Ctrl-C cost, and that a run resumes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from llx.bench import run as running
from llx.bench.run import Measurement, bench
from llx.bench.worker import run_scenario
from llx.errors import EXIT_BUG, EXIT_GATE_FAILED, BadInput
from llx.processes import OwnProcess
from llx.result import encode_results, read_results


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "llx" / "bench"


def ends_itself(scenario, progress):
    """An engine that generates no token: it ends by the signal that its command names."""
    if scenario.name == "tg4":
        os.kill(os.getpid(), signal.Signals[scenario.job.command])
    return run_scenario(scenario, progress)


def hangs(scenario, progress):
    progress(scenario.name, 0, 1, "run")
    time.sleep(600)


def refuses(scenario, progress):
    raise BadInput("this engine wants another graph", "export it")


@pytest.mark.parametrize(
    "sent",
    ["SIGKILL", *(pytest.param(s, marks=pytest.mark.slow) for s in ("SIGSEGV", "SIGABRT"))],
)
def test_a_crash_costs_one_row_and_the_rest_goes_on(job, monkeypatch, sent, tmp_path):
    monkeypatch.setattr(running, "run_scenario", ends_itself)
    result = bench(replace(job, command=sent))
    assert [row.test for row in result.speed] == ["pp8"]
    assert result.fidelity is not None
    (failed,) = result.failed
    assert failed.test == "tg4"
    assert f"engine ort, tg4, was ended by {sent}" in failed.error.message
    assert ("memory runs out" in failed.error.message) == (sent == "SIGKILL")
    assert failed.error.exit_code == EXIT_BUG
    assert result.error is None
    (tmp_path / "r.json").write_bytes(encode_results([result]))
    assert read_results(tmp_path / "r.json") == [result]


def test_a_hang_is_stopped_at_its_limit_and_the_rest_goes_on(job, monkeypatch):
    started = Measurement.started

    def limited(self, scenario):
        if scenario.name == "pp8":
            return OwnProcess(hangs, scenario, "engine ort, pp8,", "look above", 4.0, "wait longer")
        return started(self, scenario)

    monkeypatch.setattr(Measurement, "started", limited)
    result = bench(job)
    assert [row.test for row in result.speed] == ["tg4"]
    assert result.fidelity is not None
    (failed,) = result.failed
    assert failed.error.message == "engine ort, pp8, had no end after 4 s and was stopped"
    assert failed.error.remedy == "wait longer"
    assert failed.error.exit_code == EXIT_GATE_FAILED


def test_an_engine_that_refuses_its_first_session_is_not_asked_again(job, monkeypatch):
    monkeypatch.setattr(running, "run_scenario", refuses)
    news = []
    result = bench(job, lambda *what: news.append(what))
    assert result.error is not None
    assert result.error.message == "this engine wants another graph"
    assert (result.speed, result.failed, news) == ([], [], [])


def test_each_test_has_a_process_whose_memory_and_loading_are_its_own(job):
    result = bench(job)
    assert len(result.time.loads_s) == 3
    assert min(result.time.loads_s) <= result.time.load_s <= max(result.time.loads_s)
    peaks = [row.memory.peak_host_bytes for row in result.speed]
    assert all(0 < peak <= result.memory.peak_host_bytes for peak in peaks)


class InterruptAt:
    """Progress that is interrupted, as by Ctrl-C, where a test begins."""

    def __init__(self, name=None):
        self.name, self.seen = name, []

    def __call__(self, what, done, total, unit):
        self.seen.append(what)
        if what == self.name:
            raise KeyboardInterrupt


def interrupted(job):
    measurement = Measurement(job)
    with pytest.raises(KeyboardInterrupt):
        measurement.run(InterruptAt("tg4"))
    return measurement.result()


def test_an_interrupt_keeps_what_was_measured_and_a_run_resumes_from_there(job, state):
    first = interrupted(job)
    assert first.interrupted
    assert [row.test for row in first.speed] == ["pp8"]
    assert first.unjudged == "it was interrupted"
    assert len(list(state.iterdir())) == 1
    progress = InterruptAt()
    second = bench(replace(job, resume=True), progress)
    assert "pp8" not in progress.seen
    assert [row.test for row in second.speed] == ["pp8", "tg4"]
    assert second.speed[0].samples == first.speed[0].samples
    assert second.fidelity is not None
    assert not second.interrupted
    assert list(state.iterdir()) == []


def test_a_resumed_run_holds_what_was_measured_before_to_what_the_machine_could_do_then(
    job, monkeypatch
):
    probed = running.find_ceiling
    job = replace(job, roofline=True, fidelity=False)
    first = interrupted(job)
    assert first.speed[0].roofline_probe

    def faster(asked, progress):
        found = probed(asked, progress)
        samples = [1000 * sample for sample in found.read_samples]
        return replace(found, read_bytes_per_s=1000 * found.read_bytes_per_s, read_samples=samples)

    monkeypatch.setattr(running, "find_ceiling", faster)
    second = bench(replace(job, resume=True))
    assert second.speed[0].roofline_probe == first.speed[0].roofline_probe
    assert second.ceiling.read_bytes_per_s > 100 * first.ceiling.read_bytes_per_s


def test_without_resume_a_run_begins_anew(job):
    first = interrupted(job)
    progress = InterruptAt()
    second = bench(job, progress)
    assert "pp8" in progress.seen
    assert second.speed[0].step_ns != first.speed[0].step_ns


def test_only_the_very_same_run_resumes(job):
    interrupted(job)
    progress = InterruptAt()
    other = replace(job.workload, repetitions=6)
    bench(replace(job, workload=other, resume=True, fidelity=False), progress)
    assert "pp8" in progress.seen


def test_speeds_are_held_to_what_the_machine_can_do(job):
    result = bench(replace(job, fidelity=False, roofline=True))
    # a probe before the run and one after it: each by the library that was faster then
    assert {*result.ceiling.by.split(" and ")} <= {"numpy", "onnxruntime"}
    assert result.ceiling.read_bytes_per_s > 1e8
    assert result.ceiling.flops_per_s > 1e8
    for row in result.speed:
        assert 0 < row.roofline_probe < 1
        assert row.predicted_ms > 0
        assert row.suspect  # a step of so small a model is all overhead


def test_a_probe_that_fails_leaves_the_speeds(job, monkeypatch):
    def fails(job, progress):
        raise BadInput("no library", "install one")

    monkeypatch.setattr(running, "find_ceiling", fails)
    result = bench(replace(job, fidelity=False, roofline=True))
    assert (result.ceiling, result.no_ceiling) == (None, "no library")
    assert [row.roofline_probe for row in result.speed] == [None, None]
