"""`TrtSession` on doubles of CUDA and TensorRT: its logic and its numbers, not NVIDIA's.

The doubles run the artifact's graph in ONNX Runtime at the addresses that the session gives. That a
real engine answers so, `make test-gpu` tells, where there is a GPU.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from llx.bench.cuda import Cuda, CudaError
from llx.bench.sessions.torch import TorchSession
from llx.bench.sessions.trt import TrtSession
from llx.bench.speed import steps
from llx.errors import BadInput
from llx.graphs.contract import ContractError
from tests.checkpoints import dice
from tests.doubles.cuda import RecordingCuda
from tests.doubles.session import open_trt
from tests.doubles.tensorrt import FakeTensorRT
from tests.parity import compare

BOTH = pytest.mark.parametrize("dialect", ["standard", "primitive"])


@pytest.fixture
def opened(tiny, monkeypatch):
    """Open sessions on the doubles: returns (session, double of CUDA, double of the engine)."""
    sessions = []

    def open_one(dialect="standard", **choices):
        session, cuda, engine = open_trt(tiny, dialect, monkeypatch, **choices)
        sessions.append(session)
        return session, cuda, engine

    yield open_one
    for session in sessions:
        session.close()


def random_tokens(session, length):
    rng = dice(0)
    return rng.integers(0, session.limits.vocab, (session.rows, length), dtype=np.int64)


def step(session, tokens, starts):
    """One step with each row at a start of its own; the logits of all its tokens."""
    t = tokens.shape[1]
    picks = np.tile(np.arange(t), (len(tokens), 1))
    session.enqueue(tokens, np.asarray(starts)[:, None] + np.arange(t), picks)
    session.sync()
    return session.logits().copy()


def test_the_double_of_cuda_has_the_same_methods():
    def methods(kind):
        return {
            name: str(inspect.signature(value)).replace("NDArray[Any]", "np.ndarray")
            for name, value in vars(kind).items()
            if callable(value) and not name.startswith("_")
        }

    double = methods(RecordingCuda)
    for name, signature in methods(Cuda).items():
        assert double[name] == signature


@BOTH
@pytest.mark.parametrize("profiles", [1, 2])
@pytest.mark.parametrize("runtime", ["trt", "trt-rtx"])
def test_it_answers_as_pytorch_does(opened, tiny, dialect, profiles, runtime):
    session, _, _ = opened(dialect, profiles=profiles, runtime=runtime)
    parity = compare(session, TorchSession.open(tiny))
    assert max(parity.prefill_error, parity.decode_error) < 1e-5
    assert parity.same_top1


@BOTH
def test_it_answers_as_pytorch_does_where_each_row_is_at_a_position_of_its_own(
    opened, tiny, dialect
):
    session, _, _ = opened(dialect, rows=3)
    reference = TorchSession.open(tiny, 3)
    tokens = random_tokens(session, 12)
    for one in (session, reference):
        steps.prefill(one, tokens[:, :9])
    for count, starts in ((2, [3, 9, 0]), (1, [5, 11, 2]), (1, [6, 4, 3])):
        part = np.ascontiguousarray(tokens[:, -count:])
        np.testing.assert_allclose(
            step(session, part, starts), step(reference, part, starts), atol=1e-5, rtol=0
        )


@BOTH
def test_an_engine_has_a_capacity_of_its_own(opened, tiny, dialect):
    session, _, _ = opened(dialect, capacity=40)
    assert session.limits.capacity == 40
    parity = compare(session, TorchSession.open(tiny))
    assert max(parity.prefill_error, parity.decode_error) < 1e-5


@BOTH
def test_past_and_present_share_an_address_only_in_place(opened, dialect):
    _, _, engine = opened(dialect)
    for context in engine.contexts:
        for name, address in context.addresses.items():
            if name.startswith("present"):
                same = address == context.addresses[name.replace("present", "past")]
                assert same == (dialect == "standard")


def test_both_contexts_share_cache_and_scratch_and_nothing_else(opened):
    _, _, engine = opened()
    decode, other = engine.contexts
    assert decode.scratch == other.scratch
    assert decode.scratch[1] >= engine.device_memory_size_v2
    for name, address in decode.addresses.items():
        assert (address == other.addresses[name]) == name.startswith(("past", "present"))


def test_decoding_takes_the_first_profile_and_all_else_the_second(opened):
    session, _, engine = opened(profiles=2)
    engine.runs.clear()
    steps.prefill(session, random_tokens(session, 5))
    steps.decode_step(session, np.array([[1]]), 5)
    session.enqueue(np.array([[1]]), np.array([[6]]), np.array([[0, 0]]))  # two picks: no decode
    session.sync()
    assert engine.runs == [(1, (1, 5)), (0, (1, 1)), (1, (1, 1))]


@BOTH
def test_nothing_but_ids_and_logits_crosses(opened, dialect):
    session, cuda, _ = opened(dialect)
    cuda.done.clear()
    steps.prefill(session, random_tokens(session, 5))
    crossed = [(op.name, op.count) for op in cuda.done if op.name in ("to_device", "to_host")]
    logits = 4 * session.limits.vocab
    assert crossed == [("to_device", 40), ("to_device", 40), ("to_device", 8), ("to_host", logits)]


def test_a_decode_step_is_one_launch_and_new_keys_follow_it(opened):
    for dialect, copies in (("standard", 0), ("primitive", 4)):
        session, cuda, _ = opened(dialect)
        steps.prefill(session, random_tokens(session, 5))
        cuda.done.clear()
        steps.decode_step(session, np.array([[1]]), 5)
        assert cuda.launches == 1
        names = [op.name for op in cuda.done]
        assert names == ["to_device"] * 3 + ["engine", "to_host"] + ["copy_lines"] * copies
        assert session.details()["cuda_graph"] == "one for a decode step"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"runtime": "trt-rtx"}, "left to TensorRT-RTX"),
        ({"capturable": False}, "none: the engine cannot be captured"),
        ({"capture_fails": CudaError("cudaStreamEndCapture failed", "")}, "none: cudaStreamEnd"),
    ],
)
def test_without_a_graph_every_step_is_enqueued(opened, tiny, choices, said):
    session, cuda, _ = opened(**choices)
    assert compare(session, TorchSession.open(tiny)).decode_error < 1e-5
    assert cuda.launches == 0
    assert session.details()["cuda_graph"].startswith(said)


def test_rtx_compiles_at_once_and_captures_by_itself(opened):
    _, _, engine = opened(runtime="trt-rtx")
    assert engine.config.cuda_graph_strategy == "whole graph"
    assert engine.config.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_an_old_tensorrt_is_captured_without_being_asked(opened, tiny):
    session, cuda, engine = opened("primitive", native=False)
    assert not hasattr(engine, "get_aliased_input_tensor")
    assert not hasattr(engine.contexts[0], "is_stream_capturable")
    assert compare(session, TorchSession.open(tiny)).decode_error < 1e-5
    assert cuda.launches > 0


def test_a_step_begun_before_the_last_was_waited_for_disturbs_nothing(opened):
    session, _, _ = opened()
    tokens = random_tokens(session, 6)
    steps.prefill(session, tokens)
    wanted = session.logits().copy()
    session.reset()
    steps.prefill(session, np.ascontiguousarray(tokens[:, ::-1]))  # nothing of the answer is left
    session.reset()
    for at in range(6):
        session.enqueue(tokens[:, at : at + 1], np.array([[at]]), np.array([[0]]))
    session.sync()
    np.testing.assert_allclose(session.logits(), wanted, atol=1e-5, rtol=0)


def test_logits_of_many_positions_make_room_for_themselves_and_a_graph_keeps_its_own(opened, tiny):
    session, reference = opened()[0], TorchSession.open(tiny)
    tokens = random_tokens(session, 20)
    for one in (session, reference):
        steps.prefill(one, tokens[:, :8])
        steps.decode_step(one, tokens[:, 8:9], 8)
    np.testing.assert_allclose(
        step(session, tokens[:, 9:18], [9]), step(reference, tokens[:, 9:18], [9]), atol=1e-5
    )
    np.testing.assert_allclose(
        step(session, tokens[:, 18:19], [18]), step(reference, tokens[:, 18:19], [18]), atol=1e-5
    )


def test_a_step_past_the_engines_capacity_is_refused(opened):
    session, cuda, _ = opened(capacity=40)
    steps.prefill(session, random_tokens(session, 40))
    cuda.done.clear()
    with pytest.raises(ContractError, match="outside the cache's 40"):
        steps.decode_step(session, np.array([[1]]), 40)
    assert not cuda.done
    assert not cuda.queue


def test_more_picks_than_the_engine_takes_are_refused(opened):
    session, _, _ = opened()
    picks = np.zeros((1, session.limits.max_new_tokens + 1), np.int64)
    with pytest.raises(ContractError, match="picks are over"):
        session.enqueue(np.array([[1]]), np.array([[0]]), picks)


def test_closing_gives_everything_back(opened, tiny, monkeypatch):
    session, cuda, _ = open_trt(tiny, "primitive", monkeypatch)
    assert session.memory().device_bytes > session.memory().cache_bytes == 2 * 2 * 2 * 96 * 10 * 4
    session.close()
    assert (cuda.device, cuda.host, cuda.closed) == ({}, {}, True)


def test_an_engine_that_writes_over_another_cache_is_refused(opened):
    with pytest.raises(BadInput, match=r"writes present\.0\.key over past\.0\.value, not over"):
        opened(alias={"present.0.key": "past.0.value"})
    with pytest.raises(BadInput, match=r"writes present\.1\.value over nothing"):
        opened(alias={"present.1.value": None})


def test_an_engine_of_another_contract_is_refused(opened, tiny):
    contract = tiny.manifest.contract
    fewer = replace(contract, layers=1)
    with pytest.raises(BadInput, match="the engine has 12 inputs and outputs, not 8"):
        opened(contract=fewer)
    larger = replace(contract, limits=replace(contract.limits, vocab=999))
    with pytest.raises(BadInput, match=r"logits is \[-1, -1, 300\], not \['B', 'K', 999\]"):
        opened(contract=larger)


def test_more_rows_than_the_engine_takes_are_refused(opened):
    with pytest.raises(BadInput, match="9 rows are outside the engine's 1…8: build one with"):
        opened(rows=9)


def test_what_tensorrt_refuses_to_load_is_said_in_its_words(tiny, monkeypatch):
    monkeypatch.setattr("llx.tensorrt.load", lambda _: FakeTensorRT())
    monkeypatch.setattr("llx.bench.sessions.trt.Cuda", RecordingCuda)
    with pytest.raises(BadInput, match=r"trt 10\.16\.2 cannot load the engine: Error Code 1: Ser"):
        TrtSession("trt", b"not a plan", tiny.manifest.contract, "standard")


def test_a_stripped_engine_gets_its_weights_from_the_artifact(opened, tiny):
    session, _, _ = opened(stripped=True, capacity=40)
    assert compare(session, TorchSession.open(tiny)).prefill_error < 1e-5


def test_details_say_what_ran(opened):
    session, _, _ = opened("primitive", profiles=2)
    found = session.details()
    assert found["tensorrt"] == "10.16.2"
    assert (found["dialect"], found["cache"], found["profiles"]) == ("primitive", "delta", 2)
    assert found["capacity"] == session.limits.capacity
    assert found["engine_bytes"] > 0
