"""Which built engine runs, and which is refused: on doubles of CUDA and TensorRT, with no GPU."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest

from llx.artifact import open_artifact
from llx.bench import run as running
from llx.bench.sessions import ENGINES, Built
from llx.bench.sessions.torch import TorchSession
from llx.bench.sessions.trt import TrtSession, chosen_engine
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job
from llx.engine import ENGINES as FOLDER
from llx.engine import (
    PLAN,
    EngineKey,
    EngineManifest,
    note_built,
    open_engine,
    write_engine_manifest,
)
from llx.errors import BadInput, Lacking
from llx.gpu import Gpu
from llx.manifest import FileRecord
from llx.places import note_place
from llx.tensorrt import BuildOptions
from tests.cli.test_bad_input import assert_refused
from tests.doubles.cuda import RecordingCuda
from tests.doubles.tensorrt import FakeTensorRT, plan_of
from tests.parity import compare

GPU = Gpu("a GPU that is not here", 87, 2**35)
VERSION = "10.16.2"


@pytest.fixture
def artifact(tiny, tmp_path, monkeypatch):
    """A copy to build into, on a machine whose GPU, CUDA and TensorRT are doubles."""
    module = FakeTensorRT()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for place in ("llx.tensorrt.load", "llx.bench.sessions.load", "llx.bench.sessions.trt.load"):
        monkeypatch.setattr(place, lambda _: module)
    for place in ("llx.gpu.find_gpu", "llx.bench.sessions.trt.find_gpu", "llx.bench.run.find_gpu"):
        monkeypatch.setattr(place, lambda: GPU)
    monkeypatch.setattr("llx.bench.sessions.trt.Cuda", RecordingCuda)
    note_place(tiny.manifest.asked["checkpoint"], tiny.folder.parent / "checkpoint")
    shutil.copytree(tiny.folder, tmp_path / "copy")
    return open_artifact(tmp_path / "copy")


def built(artifact, created="2026-01-01", mine=True, rows=8, capacity=96, **changes):
    """The folder of an engine that the doubles load, as `llx build` would have left it."""
    contract = artifact.manifest.contract
    limits = replace(contract.limits, max_rows=rows, capacity=capacity, max_new_tokens=capacity)
    key = EngineKey(
        artifact_sha256=artifact.sha256,
        runtime="trt",
        version=VERSION,
        sm=87,
        device=GPU.name,
        dialect="standard",
        contract=replace(contract, limits=limits),
        options=BuildOptions(),
    )
    key = replace(key, **changes)
    plan = plan_of(artifact, key.dialect, key.contract, stripped=key.options.strip)
    sha256 = hashlib.sha256(plan).hexdigest()
    folder = artifact.folder / FOLDER / key.name
    folder.mkdir(parents=True)
    (folder / PLAN).write_bytes(plan)
    manifest = EngineManifest(
        key=key,
        created=created,
        command="llx build",
        llx="0.1.0",
        build_s=61.5,
        peak_host_bytes=None,
        weights_bytes=1,
        layers={},
        files={PLAN: FileRecord(bytes=len(plan), sha256=sha256)},
    )
    write_engine_manifest(folder, manifest)
    if mine:
        note_built(sha256)
    return folder


def test_the_newest_engine_runs(artifact):
    built(artifact, "2026-01-01", capacity=96)
    newest = built(artifact, "2026-03-01", capacity=64)
    built(artifact, "2026-02-01", capacity=48)
    assert chosen_engine(artifact, "trt", 1, Built()).folder == newest


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "10.3.0"},
        {"sm": 86},
        {"rows": 2},
        {"artifact_sha256": "0" * 64},
        {"runtime": "trt-rtx"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_engine_of_another_machine_or_model_or_for_fewer_rows_is_passed_over(artifact, changes):
    fits = built(artifact, "2026-01-01")
    other = built(artifact, "2026-02-01", **changes)
    assert chosen_engine(artifact, "trt", 3, Built()).folder == fits
    if "artifact_sha256" not in changes:
        assert chosen_engine(artifact, "trt", 3, Built(folder=other)).folder == other


def test_an_engine_of_another_artifact_is_none_of_this_ones_by_name_either(artifact):
    other = built(artifact, artifact_sha256="0" * 64)
    with pytest.raises(BadInput, match="was not built from"):
        chosen_engine(artifact, "trt", 1, Built(folder=other))


def test_an_engine_for_any_gpu_fits_this_one(artifact):
    folder = built(artifact, sm=None)
    assert chosen_engine(artifact, "trt", 1, Built()).folder == folder


def test_where_none_fits_it_says_what_builds_one(artifact):
    built(artifact, rows=2)
    with pytest.raises(Lacking, match=r"for SM 87 and 3 rows: .*--engine trt --batch 3"):
        chosen_engine(artifact, "trt", 3, Built())


@pytest.mark.parametrize("options", [BuildOptions(), BuildOptions(strip=True)], ids=["", "strip"])
@pytest.mark.parametrize("dialect", ["standard", "primitive"])
def test_it_is_opened_and_answers_as_pytorch_does(artifact, dialect, options):
    built(artifact, dialect=dialect, options=options, capacity=64)
    session = ENGINES["trt"].open(artifact, 1)
    parity = compare(session, TorchSession.open(artifact))
    assert max(parity.prefill_error, parity.decode_error) < 1e-5
    assert session.details()["build_s"] == 61.5
    session.close()


def test_an_engine_that_another_built_is_loaded_only_where_it_is_trusted(artifact):
    built(artifact, mine=False)
    with pytest.raises(Lacking, match=r"which you have not built, by --trust-engine"):
        TrtSession.open("trt", artifact)
    TrtSession.open("trt", artifact, 1, Built(trust=True)).close()


def test_an_engine_that_was_changed_is_refused_even_where_it_is_trusted(artifact):
    plan = built(artifact) / PLAN
    plan.write_bytes(plan.read_bytes()[:-1] + b" ")
    with pytest.raises(BadInput, match="is not what was built"):
        TrtSession.open("trt", artifact, 1, Built(trust=True))


def test_a_workload_over_the_engines_own_limits_is_refused_before_anything_runs(llx, artifact):
    built(artifact, capacity=48)
    words = ("bench", artifact.folder, "--engine", "trt", "-n", "4", "--no-fidelity")
    ended = llx(*words, "-p", "64")
    assert_refused(ended, 2, "pp64 fills 64 positions and the cache holds 48", "build with")
    job = Job(
        folder=artifact.folder,
        engine="trt",
        workload=Workload(prompts=(64,), generated=()),
        fidelity=False,
        command="llx bench",
    )
    with pytest.raises(BadInput, match="the cache holds 48"):
        running.bench(job)


class InThisProcess:
    """In the place of a process of its own, where the doubles are not."""

    ended = True

    def __init__(self, work, job, what, remedy, limit_s, if_late):
        self._answer = work(job, lambda *_: None)

    def answer(self):
        return self._answer

    def end(self):
        pass


def test_a_result_names_the_engine_and_what_it_cost(artifact, monkeypatch):
    folder = built(artifact, capacity=64)
    monkeypatch.setattr(running, "OwnProcess", InThisProcess)
    job = Job(
        folder=artifact.folder,
        engine="trt",
        workload=Workload(prompts=(8,), generated=(4,)),
        fidelity=False,
        command="llx bench",
        built=Built(folder),
        roofline=False,
    )
    result = running.bench(job)
    assert result.error is None
    assert result.dialect == "standard"
    assert result.time.build_s == 61.5
    assert result.memory.engine_bytes == open_engine(folder).plan_bytes
    assert result.memory.peak_device_bytes > result.memory.cache_bytes
    assert result.details["engine"] == folder.name
    assert result.environment.device.startswith("a GPU that is not here (32 GiB, SM 87)")
    prefill, decode = result.speed
    assert prefill.bytes_per_step_actual is None
    per_position = 4 * 2 * 2 * 20  # fp32, keys and values, layers, Hkv·D
    unfilled = 64 - (4 + 1) // 2
    assert decode.bytes_per_step_actual - decode.bytes_per_step == unfilled * per_position


def test_bench_builds_what_is_missing_and_says_so(llx, artifact, monkeypatch):
    def build_engine(asked, request, progress, tell):
        assert (request.runtime, request.batch, request.sm) == ("trt", 2, None)
        return open_engine(built(artifact, rows=2)), True

    monkeypatch.setattr("llx.exporter.engines.build.build_engine", build_engine)
    monkeypatch.setattr("llx.exporter.engines.build.timing_cache_of", lambda _: None)
    monkeypatch.setattr(running, "OwnProcess", InThisProcess)
    words = ("--engine", "trt", "-p", "8", "-n", "4", "-b", "1,2", "--no-fidelity", "--no-roofline")
    ended = llx("bench", artifact.folder, *words)
    assert ended.code == 0, ended.stderr
    said = ended.stderr.splitlines()
    assert "it is built now" in said[0]
    assert said[1].startswith("llx: trt runs ")
    assert "engine" in ended.stdout


def test_an_engine_that_cannot_be_built_is_a_row_and_the_others_run(llx, artifact, monkeypatch):
    def build_engine(*_, **__):
        raise BadInput("trt cannot build it", "try less")

    monkeypatch.setattr("llx.exporter.engines.build.build_engine", build_engine)
    monkeypatch.setattr("llx.exporter.engines.build.timing_cache_of", lambda _: None)
    words = ("--engine", "trt,ort", "-p", "8", "-n", "4", "--no-fidelity")
    ended = llx("bench", artifact.folder, *words)
    assert ended.code == 2
    assert "trt cannot build it: try less" in " ".join(ended.stdout.split())
    assert "tg4" in ended.stdout
