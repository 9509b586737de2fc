"""What every engine must do: a new line in `ENGINES` or `DIALECTS` falls in here by itself."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from llx.bench.sessions import ENGINES, engine_named
from llx.bench.sessions.fake import FakeSession
from llx.bench.sessions.ort import OrtSession, provider_options
from llx.bench.sessions.ort_arithmetic import session_options
from llx.bench.speed import steps
from llx.errors import BadInput, Lacking, LlxError
from llx.gpu import Gpu
from llx.graphs.contract import ContractError
from llx.graphs.dialects import DIALECTS, PLAIN
from llx.precision import PRECISIONS
from llx.runtime import RUNTIMES
from tests.checkpoints import SIXTEENS, dice
from tests.conftest import export_tiny
from tests.doubles.session import open_trt
from tests.doubles.tensorrt import FakeTensorRT

# `ort` is ONNX Runtime over its own dialect; it runs the others' graphs as well.
OTHERS = [f"ort, {dialect}" for dialect in DIALECTS if dialect not in ENGINES["ort"].dialects]
# TensorRT runs here on doubles, for each kind of cache; tests/gpu has the real one.
DOUBLES = [f"{runtime}, {dialect}" for runtime in RUNTIMES for dialect in PLAIN]
REGISTERED = [
    pytest.param(name, marks=pytest.mark.gpu)
    if engine.gpu
    else pytest.param(name, marks=pytest.mark.slow)
    if engine.compiles
    else name
    for name, engine in ENGINES.items()
    if not engine.runtime and not engine.rounds
]
# Heads of sixteen or a multiple go through GroupQueryAttention, all others as in `standard`.
SESSIONS = [*REGISTERED, "ort, grouped", *OTHERS, *DOUBLES, "fake"]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("grouped"), spec=SIXTEENS)


@pytest.fixture(params=SESSIONS)
def open_session(request, tiny, grouped, monkeypatch):
    opened = []
    name, _, dialect = request.param.partition(", ")

    def open_rows(rows=1):
        if request.param == "fake":
            session = FakeSession(tiny.manifest.contract.limits, rows)
        elif name in RUNTIMES:
            session, _, _ = open_trt(tiny, dialect, monkeypatch, rows, name)
        elif dialect == "grouped":
            session = OrtSession(grouped, rows)
        elif dialect:
            session = OrtSession(tiny, rows, dialect)
        else:
            require(name)
            session = ENGINES[name].open(tiny, rows)
        opened.append(session)
        return session

    yield open_rows
    for session in opened:
        session.close()


def require(name):
    """Skip where there is no compiler for what compiles; lack nothing else."""
    try:
        ENGINES[name].require()
    except Lacking as lacking:
        if "needs a C++ compiler" not in lacking.message:
            raise
        pytest.skip(str(lacking))


def random_tokens(session, length):
    rng = dice(0)
    return rng.integers(0, session.limits.vocab, (session.rows, length), dtype=np.int64)


@pytest.mark.parametrize("rows", [1, 3])
def test_logits_are_float32_of_the_positions_asked_for(open_session, rows):
    session = open_session(rows)
    tokens = random_tokens(session, 5)
    positions = np.tile(np.arange(5), (rows, 1))
    session.enqueue(tokens, positions, np.tile([[4, 1]], (rows, 1)))
    session.sync()
    logits = session.logits()
    assert logits.shape == (rows, 2, session.limits.vocab)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_a_prompt_gives_the_same_logits_in_one_step_in_chunks_and_token_by_token(open_session):
    session = open_session()
    tokens = random_tokens(session, 12)
    answers = []
    for cuts in ([12], [5, 12], [*range(1, 13)]):
        session.reset()
        start = 0
        for end in cuts:
            part = np.ascontiguousarray(tokens[:, start:end])
            session.enqueue(part, np.arange(start, end)[None], steps.last_index(part))
            session.sync()
            start = end
        answers.append(session.logits().copy())
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-5, rtol=0)


def test_nothing_of_an_earlier_prompt_is_left_after_reset(open_session):
    session, fresh = open_session(), open_session()
    tokens = random_tokens(session, 20)
    steps.prefill(session, tokens)
    session.reset()
    for one in (session, fresh):
        steps.prefill(one, np.ascontiguousarray(tokens[:, 10:15]))
    np.testing.assert_array_equal(session.logits(), fresh.logits())


def test_rows_do_not_see_each_other(open_session):
    session, alone = open_session(2), open_session(1)
    tokens = random_tokens(session, 9)
    steps.prefill(session, tokens)
    steps.prefill(alone, tokens[1:])
    np.testing.assert_allclose(session.logits()[1], alone.logits()[0], atol=1e-5, rtol=0)


def test_a_step_past_the_capacity_is_refused(open_session):
    session = open_session()
    capacity = session.limits.capacity
    steps.prefill(session, random_tokens(session, capacity))
    with pytest.raises(ContractError, match="outside the cache"):
        steps.decode_step(session, np.array([[1]]), capacity)


def test_an_unknown_engine_is_refused_with_those_that_are_known():
    with pytest.raises(BadInput, match=r"unknown engine 'tvm': choose one of torch, .*trt-rtx"):
        engine_named("tvm")


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if engine.gpu])
def test_an_engine_without_its_gpu_says_what_would_work(monkeypatch, name):
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    monkeypatch.setattr("llx.bench.sessions.load", lambda _: FakeTensorRT())
    with pytest.raises(Lacking, match=f"engine {name} needs an NVIDIA GPU.*--engine ort`.*--sm 86"):
        engine_named(name).require()


def test_packages_for_the_cpu_alone_are_told_from_no_gpu(monkeypatch):
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: Gpu("a GPU", 86, 2**33))
    for name, provider in (("ort-cuda", "CUDA"), ("ort-tensorrt", "Tensorrt")):
        with pytest.raises(
            Lacking, match=rf"no {provider} provider: pip install 'onnxruntime-gpu>="
        ):
            engine_named(name).require()
    with pytest.raises(Lacking, match=r"PyTorch .* does not use the GPU"):
        engine_named("torch-cuda").require()
    with pytest.raises(Lacking, match=r"PyTorch .* does not use the GPU"):
        engine_named("torch-compile-cuda").require()


def test_a_machine_without_a_compiler_says_what_torch_compile_needs(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Lacking, match=r"no g\+\+ or clang\+\+ here: install g\+\+.*--engine torch"):
        engine_named("torch-compile").require()


@pytest.mark.slow
def test_a_compiler_that_fails_is_said_in_one_line(tiny, monkeypatch, tmp_path):
    require("torch-compile")
    compiler = tmp_path / "compiler"
    script = '[ "$1" = --version ] || { echo "x.cpp:1: error: no Python.h" >&2; exit 1; }'
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with (
        fresh_compiler(),
        inductor_config.patch({"cpp.cxx": (str(compiler),)}),
        pytest.raises(
            Lacking, match=r"torch.compile fails here: .*install a C\+\+ compiler"
        ) as lacking,
    ):
        engine_named("torch-compile").open(tiny, 1)
    assert "\n" not in str(lacking.value)


@contextmanager
def fresh_compiler():
    """A process in which PyTorch has compiled nothing yet."""
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


@pytest.mark.slow
def test_torch_compile_compiles_once_for_each_kind_of_step_and_never_for_a_length(tiny):
    require("torch-compile")
    with fresh_compiler():
        counters.clear()
        session = engine_named("torch-compile").open(tiny, 1)
        reference = engine_named("torch").open(tiny, 1)
        assert session.details()["graphs"] == 2
        assert session.details()["build_s"] > 0
        capacity = session.limits.capacity
        tokens = random_tokens(session, capacity)
        for cuts in ([2, 7, 8, 30, capacity - 1, capacity], [capacity], [1, 2, 3, 5]):
            for one in (session, reference):
                one.reset()
            for start, end in pairwise([0, *cuts]):
                part, positions = tokens[:, start:end], np.arange(start, end)[None]
                for one in (session, reference):
                    one.enqueue(part, positions, steps.last_index(part))
                np.testing.assert_allclose(session.logits(), reference.logits(), atol=1e-5, rtol=0)
        session.reset()
        for logits in steps.prefill_logits(session, tokens):  # of all positions, for judging
            assert logits.shape[1] > 1
        assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
def test_a_step_that_is_compiled_again_is_no_measurement(tiny):
    require("torch-compile")
    with fresh_compiler():
        session = engine_named("torch-compile").open(tiny, 1)
        steps.prefill(session, random_tokens(session, 5))
        torch.compiler.reset()
        with pytest.raises(LlxError, match="compiled within a step"):
            steps.decode_step(session, np.array([[1]]), 5)


@pytest.mark.parametrize("name", ["torch", "ort"])
def test_engines_take_as_many_threads_as_they_are_said_to(tiny, monkeypatch, name):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        session = engine_named(name).open(tiny, 1)
        assert session.details()["threads"] == 3
        assert torch.get_num_threads() == (3 if name == "torch" else before)
    finally:
        torch.set_num_threads(before)
    if name == "ort":
        options = session_options(tiny.manifest.precision)
        assert options.intra_op_num_threads == 3


def test_every_session_says_what_it_does_with_the_cache(open_session):
    session = open_session()
    if isinstance(session, FakeSession):
        return
    details = session.details()
    assert details["cache"] in ("in-place", "delta")
    assert details["reads_capacity"] == session.reads_capacity


def test_onnx_runtime_says_which_provider_runs_how_many_nodes(tiny):
    session = engine_named("ort").open(tiny, 1)
    provider, count = session.details()["nodes"].split()
    assert (provider, session.details()["provider"]) == ("CPUExecutionProvider",) * 2
    assert int(count) > 40
    session.close()


def test_tensorrt_of_onnx_runtime_computes_as_the_graph_and_keeps_engines_with_the_user(
    tiny, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = provider_options("tensorrt", tiny)
    assert list(options) == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    trt = options["TensorrtExecutionProvider"]
    assert (trt["trt_fp16_enable"], trt["trt_int8_enable"]) == ("0", "0")
    assert trt["trt_engine_cache_path"].startswith(f"{tmp_path}/llx/")
    assert Path(trt["trt_engine_cache_path"]).stat().st_mode & 0o777 == 0o700
    contract = replace(tiny.manifest.contract, compute="fp16")
    manifest = replace(tiny.manifest, precision=PRECISIONS["fp16"], contract=contract)
    half = replace(tiny, manifest=manifest)
    half_options = provider_options("tensorrt", half)["TensorrtExecutionProvider"]
    assert half_options["trt_fp16_enable"] == "1"


def test_tensorrt_that_is_not_installed_says_what_installs_it():
    with pytest.raises(
        Lacking, match=r"trt needs tensorrt, not installed here: pip install 'tensorrt>="
    ):
        engine_named("trt").require()


def test_an_engine_that_is_not_installed_says_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Lacking, match=r"needs onnxruntime, .*pip install 'onnxruntime>="):
        engine_named("ort").require()


def test_an_engine_that_is_too_old_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.23.2")
    with pytest.raises(Lacking, match=r"needs onnxruntime 1\.24 or newer, not 1\.23\.2"):
        engine_named("ort").require()
