"""The device's side of a measurement, and the results that are made of it here."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from llx.bench.edge import device as edge
from llx.bench.edge.collect import collect_result
from llx.bench.fidelity.judge import judge_session
from llx.bench.fidelity.reference import read_reference
from llx.bench.machine.kernel import read_machine
from llx.bench.machine.watch import Watch
from llx.bench.sessions.fake import FakeSession
from llx.bench.speed.samples import Workload
from llx.bundle import (
    OBSERVED,
    PLAN,
    SAMPLES,
    SampleRecord,
    read_recipe,
)
from llx.errors import BadInput
from llx.probe import OUT
from tests.bench.edge.conftest import WORKLOAD
from tests.machines import ORIN_NX, ORIN_SETTINGS, tree
from tests.rows import measure
from tests.test_probe import ORIN


def brought(folder):
    samples = msgspec.json.decode((folder / OUT / SAMPLES).read_bytes(), type=SampleRecord)
    observed = folder / OUT / OBSERVED
    return samples, observed.read_bytes() if observed.exists() else None


def test_what_is_measured_there_is_what_would_be_measured_here(artifact, bundle, capsys):
    assert edge.run(bundle, "bench", as_json=True) == 0
    kinds = {next(iter(json.loads(line))) for line in capsys.readouterr().out.splitlines()}
    assert kinds == {"progress", "say"}
    samples, observed = brought(bundle)
    recipe = read_recipe(bundle)
    result = collect_result(artifact, recipe, ORIN, samples, observed, 1.5, 10**6, "llx build")
    limits = recipe.contract.limits

    def fake(rows):
        return FakeSession(limits, rows)

    judged = [
        judge_session(fake, read_reference(artifact, name)) for name in artifact.manifest.references
    ]
    assert [result.fidelity, *result.other_texts] == judged
    assert list(result.judged()) == ["", "novel.txt"]
    spec, precision = artifact.manifest.spec, artifact.manifest.precision
    here = measure(fake, Workload(**WORKLOAD), spec, precision)
    for there, row in zip(result.speed, here, strict=True):
        assert there.test == row.test
        assert [len(run) for run in there.step_ns] == [len(run) for run in row.step_ns]
        assert there.bytes_per_step == row.bytes_per_step
        assert there.mean == pytest.approx(np.mean(there.samples))
    assert [len(run) for run in result.speed[0].step_ns] == [3] * 5  # 40 tokens, 16 a step
    assert [len(run) for run in result.speed[2].step_ns] == [2 + 3] * 5  # its first token is free
    assert [row.test for row in result.speed] == ["pp40", "tg6", "req20:4"]
    assert result.speed[2].e2e_ms.mean > result.speed[2].ttft_ms.mean
    assert "; " not in "".join(row.invalid_reason or "" for row in result.speed)
    assert (result.engine, result.dialect, result.error) == ("trt", "primitive", None)
    assert result.environment.device.startswith("NVIDIA Jetson AGX Orin Developer Kit, 12 CPUs")
    assert result.environment.power_mode == "MAXN"
    assert "36.4.3" in result.environment.os
    assert result.environment.versions["trt"] == "10.3.0"


@pytest.fixture
def orin(tmp_path, monkeypatch):
    """The files of an Orin NX in the place of this machine's."""
    root = tree(tmp_path / "orin", ORIN_NX | ORIN_SETTINGS)
    monkeypatch.setattr("llx.bench.machine.energy.IDLE_S", 0.3)
    monkeypatch.setattr("llx.bench.machine.rails.PERIOD_S", 0.002)
    monkeypatch.setattr("llx.bench.machine.rails.Rails.period_s", 0.002)
    monkeypatch.setattr("llx.bench.machine.energy.LEAST_SAMPLES", 1)
    monkeypatch.setattr("llx.bench.machine.energy.LEAST_COVERAGE", 0.01)
    monkeypatch.setattr(edge, "Watch", lambda gpu: Watch(gpu, root))
    monkeypatch.setattr(edge, "read_machine", lambda: read_machine(root))
    sync = FakeSession.sync

    def takes_time(self):
        time.sleep(0.004)
        sync(self)

    monkeypatch.setattr(FakeSession, "sync", takes_time)


def test_energy_and_conditions_come_home_with_the_samples(artifact, bundle, orin):
    assert edge.run(bundle, "bench", as_json=True) == 0
    samples, observed = brought(bundle)
    result = collect_result(
        artifact, read_recipe(bundle), ORIN, samples, observed, 1.5, 10**6, "llx build"
    )
    for row, tokens in zip(result.speed, (40 * 5, 6 * 5, 4 * 5), strict=True):
        energy = row.energy
        assert (energy.source, energy.rail, energy.tokens) == ("INA3221", "VDD_IN", tokens)
        assert energy.window >= sum(map(sum, row.step_ns)) / 1e9
        assert energy.joules == pytest.approx(6.041088 * energy.window)
        assert energy.mj_per_token == pytest.approx(1e3 * energy.joules / tokens)
        assert energy.idle_watts == pytest.approx(6.041088)
    assert result.energy.tokens == (6 + 4) * 5
    assert result.environment.machine.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert result.environment.power_mode == "MODE_30W"
    assert result.environment.run.throttles == 0
    assert result.environment.gpu.name == "Orin"
    assert result.environment.run.gpu_mhz_tests == (1300.5, 1300.5)


@pytest.mark.parametrize(
    "change",
    [
        {"joules": -1.0},
        {"joules": 1e300},
        {"joules": float("nan")},
        {"window": 1e-9},
        {"window": 1e9},
        {"window": None},
        {"idle_watts": -4.0},
        {"samples": -1},
    ],
)
def test_energy_that_cannot_be_is_refused(artifact, bundle, orin, change):
    edge.run(bundle, "bench", as_json=True)
    samples, observed = brought(bundle)
    told = replace(samples.energy[0], **{"joules": 1.0} | change)
    samples = replace(samples, energy=[told, *samples.energy[1:]])
    with pytest.raises(BadInput, match="cannot be came back"):
        collect_result(artifact, read_recipe(bundle), ORIN, samples, observed, 1.5, 10**6, "")


def test_energy_of_other_tests_is_refused(artifact, bundle, orin):
    edge.run(bundle, "bench", as_json=True)
    samples, observed = brought(bundle)
    spoiled = replace(samples, energy=samples.energy[:1])
    with pytest.raises(BadInput, match="energy of other tests"):
        collect_result(artifact, read_recipe(bundle), ORIN, spoiled, observed, 1.5, 10**6, "")


def test_words_of_that_machine_are_made_safe_and_its_numbers_looked_at(artifact, bundle, orin):
    edge.run(bundle, "bench", as_json=True)
    samples, observed = brought(bundle)
    odd = replace(samples.machine, governor="\x1b[31m" + "x" * 5000)
    kept = replace(samples, machine=odd)
    result = collect_result(artifact, read_recipe(bundle), ORIN, kept, observed, 1.5, 10**6, "")
    assert "\x1b" not in result.environment.machine.governor
    assert len(result.environment.machine.governor) < 400
    for run in (
        replace(samples.run, others_cpu=-1.0),
        replace(samples.run, cpu_mhz_tests=(1.0, float("inf"))),
        replace(samples.run, gpu_slowdowns=["x"] * 1000),
    ):
        spoiled = replace(samples, run=run)
        with pytest.raises(BadInput, match="came back"):
            collect_result(artifact, read_recipe(bundle), ORIN, spoiled, observed, 1.5, 10**6, "")


def test_what_is_not_finite_keeps_its_speed(artifact, bundle, monkeypatch):
    logits = FakeSession.logits
    monkeypatch.setattr(FakeSession, "logits", lambda self: logits(self) * np.float32(np.nan))
    assert edge.run(bundle, "bench", as_json=False) == 1
    samples, observed = brought(bundle)
    result = collect_result(
        artifact, read_recipe(bundle), ORIN, samples, observed, 1.5, 10**6, "llx build"
    )
    assert len(result.speed) == 3
    assert all("not finite" in row.invalid_reason for row in result.speed)
    assert result.fidelity is None
    assert "not finite" in result.unjudged
    assert result.error.exit_code == 1


def test_an_engine_of_another_recipe_is_not_measured(bundle, capsys):
    (bundle / OUT / PLAN).write_bytes(b"something else")
    assert edge.run(bundle, "bench", as_json=False) == 2
    assert "no engine of this recipe" in capsys.readouterr().err


def test_two_runs_do_not_disturb_each_other(bundle, capsys):
    with edge.locked_folder(bundle / OUT, ""):
        assert edge.run(bundle, "bench", as_json=False) == 2
    assert "another run is at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda ns: ns[:1], "other tests"),
        (lambda ns: [ns[0], ns[1][:4], ns[2]], "samples of tg6"),
        (lambda ns: [ns[0], [run[:-1] for run in ns[1]], ns[2]], "samples of tg6"),
        (lambda ns: [[[-1, 1, 1]] * 5, *ns[1:]], "samples of pp40"),
        (lambda ns: [[[1 << 40] * 900] * 5, *ns[1:]], "samples of pp40"),
        (lambda ns: [*ns[:2], [[*run, 9] for run in ns[2]]], "samples of req20:4"),
    ],
)
def test_samples_that_cannot_be_are_refused(artifact, bundle, spoil, says):
    edge.run(bundle, "bench", as_json=True)
    samples, observed = brought(bundle)
    samples = replace(samples, step_ns=spoil(samples.step_ns))
    with pytest.raises(BadInput, match=says):
        collect_result(artifact, read_recipe(bundle), ORIN, samples, observed, 1.5, 10**6, "")


def test_what_is_wrong_with_a_session_there_is_said_here(artifact, bundle, monkeypatch):
    logits = FakeSession.logits
    monkeypatch.setattr(FakeSession, "logits", lambda self: np.zeros_like(logits(self)))
    edge.run(bundle, "bench", as_json=True)
    samples, _ = brought(bundle)
    recipe = read_recipe(bundle)
    result = collect_result(artifact, recipe, ORIN, samples, None, 1.5, 10**6, "")
    assert all("different prompts gave the same logits" in r.invalid_reason for r in result.speed)
    assert "the session stops early" in result.speed[1].invalid_reason
    spoiled = replace(samples, faults=[["\x1b[2J" + "x" * 5000], [], []])
    row = collect_result(artifact, recipe, ORIN, spoiled, None, 1.5, 10**6, "").speed[0]
    assert not row.valid
    assert "\x1b" not in row.invalid_reason
    assert len(row.invalid_reason) < 400
    with pytest.raises(BadInput, match="other tests"):
        collect_result(artifact, recipe, ORIN, replace(samples, faults=[]), None, 1.5, 10**6, "")


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("decode.best", lambda array: array[:1], "a wrong best"),
        ("prefill.at_ids", lambda array: array.astype(np.float64), "wrong at_ids"),
        ("decode.true_logit", lambda array: array + np.float32("inf"), "finite"),
        ("decode.best", None, "cannot be read"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_observations_that_cannot_be_are_refused(artifact, bundle, name, spoil, says, which):
    edge.run(bundle, "bench", as_json=True)
    samples, observed = brought(bundle)
    tensors = load(observed)
    spoilt = tensors.pop(f"{artifact.manifest.references[which]}/{name}")
    if spoil:
        tensors[f"{artifact.manifest.references[which]}/{name}"] = spoil(spoilt)
    with pytest.raises(BadInput, match=says):
        collect_result(
            artifact,
            read_recipe(bundle),
            ORIN,
            samples,
            save(tensors),
            1.5,
            10**6,
            "",
        )
    with pytest.raises(BadInput, match="cannot be read"):
        collect_result(artifact, read_recipe(bundle), ORIN, samples, observed[:-9], 1.5, 10**6, "")


def test_tensors_are_those_of_the_library(artifact, tmp_path):
    tensors = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.ones((1, 2), np.float32)}
    for name, array in load(edge.tensors_bytes(tensors)).items():
        np.testing.assert_array_equal(array, tensors[name])
        assert array.dtype == tensors[name].dtype
    (tmp_path / "file").write_bytes(save(tensors))
    for name, array in edge.read_tensors(tmp_path / "file").items():
        np.testing.assert_array_equal(array, tensors[name])
