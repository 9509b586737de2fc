"""What every engine must do: a new line in `ENGINES` or `DIALECTS` falls in here by itself."""

from __future__ import annotations

import numpy as np
import pytest

from llx.bench import steps
from llx.bench.sessions import ENGINES, engine_named
from llx.bench.sessions.fake import FakeSession
from llx.bench.sessions.ort import OrtSession
from llx.errors import BadInput, Lacking
from llx.graphs.contract import ContractError
from llx.graphs.dialects import DIALECTS

# `ort` is ONNX Runtime over its own dialect; it runs the others' graphs as well.
OTHERS = [f"ort, {dialect}" for dialect in DIALECTS if dialect != ENGINES["ort"].dialect]
SESSIONS = [*ENGINES, *OTHERS, "fake"]


@pytest.fixture(params=SESSIONS)
def open_session(request, tiny):
    opened = []

    def open_rows(rows=1):
        if request.param == "fake":
            session = FakeSession(tiny.manifest.contract.limits, rows)
        elif request.param.startswith("ort, "):
            session = OrtSession(tiny, rows, request.param.removeprefix("ort, "))
        else:
            session = ENGINES[request.param].open(tiny, rows)
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


def test_an_unknown_engine_and_one_to_come_are_told_apart():
    with pytest.raises(BadInput, match="unknown engine 'tvm': choose one of torch, ort"):
        engine_named("tvm")
    with pytest.raises(Lacking, match="trt cannot be run by this version yet"):
        engine_named("trt")


def test_an_engine_that_is_not_installed_says_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Lacking, match=r"needs onnxruntime, .*pip install 'llx\[cpu\]'"):
        engine_named("ort").require()


def test_an_engine_that_is_too_old_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.23.2")
    with pytest.raises(Lacking, match=r"needs onnxruntime 1\.24 or newer, not 1\.23\.2"):
        engine_named("ort").require()
