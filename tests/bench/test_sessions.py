"""What every engine must do: a new line in `ENGINES` or `DIALECTS` falls in here by itself."""

from __future__ import annotations

import numpy as np
import pytest

from llx.bench import steps
from llx.bench.sessions import ENGINES, engine_named
from llx.bench.sessions.fake import FakeSession
from llx.bench.sessions.ort import OrtSession
from llx.errors import BadInput, Lacking
from llx.gpu import Gpu
from llx.graphs.contract import ContractError
from llx.graphs.dialects import DIALECTS
from llx.tensorrt import RUNTIMES
from tests.doubles.session import open_trt
from tests.doubles.tensorrt import FakeTensorRT

# `ort` is ONNX Runtime over its own dialect; it runs the others' graphs as well.
OTHERS = [f"ort, {dialect}" for dialect in DIALECTS if dialect != ENGINES["ort"].dialect]
# TensorRT runs here on doubles, for each kind of cache; tests/gpu has the real one.
DOUBLES = [f"{runtime}, {dialect}" for runtime in RUNTIMES for dialect in DIALECTS]
REGISTERED = [
    pytest.param(name, marks=pytest.mark.gpu) if engine.gpu else name
    for name, engine in ENGINES.items()
    if not engine.runtime
]
SESSIONS = [*REGISTERED, *OTHERS, *DOUBLES, "fake"]


@pytest.fixture(params=SESSIONS)
def open_session(request, tiny, monkeypatch):
    opened = []
    name, _, dialect = request.param.partition(", ")

    def open_rows(rows=1):
        if request.param == "fake":
            session = FakeSession(tiny.manifest.contract.limits, rows)
        elif name in RUNTIMES:
            session, _, _ = open_trt(tiny, dialect, monkeypatch, rows, name)
        elif dialect:
            session = OrtSession(tiny, rows, dialect)
        else:
            ENGINES[name].require()
            session = ENGINES[name].open(tiny, rows)
        opened.append(session)
        return session

    yield open_rows
    for session in opened:
        session.close()


def random_tokens(session, length):
    rng = np.random.default_rng(0)
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
    with pytest.raises(Lacking, match=r"no CUDA provider: pip install 'llx\[gpu\]'"):
        engine_named("ort-cuda").require()
    with pytest.raises(Lacking, match=r"PyTorch .* does not use the GPU"):
        engine_named("torch-cuda").require()


def test_tensorrt_that_is_not_installed_says_what_installs_it():
    with pytest.raises(Lacking, match=r"trt needs tensorrt, not installed here: .*llx\[trt\]"):
        engine_named("trt").require()


def test_an_engine_that_is_not_installed_says_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Lacking, match=r"needs onnxruntime, .*pip install 'llx\[cpu\]'"):
        engine_named("ort").require()


def test_an_engine_that_is_too_old_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.23.2")
    with pytest.raises(Lacking, match=r"needs onnxruntime 1\.24 or newer, not 1\.23\.2"):
        engine_named("ort").require()
