"""The harness, on a session that records what it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llx.bench import clock
from llx.bench.roofline import bytes_per_decode_step
from llx.bench.samples import Workload
from llx.bench.sessions.fake import FakeSession
from llx.bench.speed import confidence_interval, measure
from llx.errors import BadInput
from llx.graphs.contract import Limits
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from tests.checkpoints import TINY

LIMITS = Limits(capacity=96, max_new_tokens=8, max_rows=4, vocab=TINY.vocab)
FP32 = PRECISIONS["fp32"]


def run(workload):
    sessions = []

    def open_rows(rows):
        sessions.append(FakeSession(LIMITS, rows))
        return sessions[-1]

    return measure(open_rows, workload, TINY, FP32), sessions


def test_a_workload_is_a_full_cross_product_named_as_the_field_names_it():
    workload = Workload(prompts=(16, 32), generated=(4,), depths=(0, 8), batches=(1, 2))
    assert [(test.name, test.batch) for test in workload.tests()] == [
        ("pp16", 1), ("pp32", 1), ("tg4", 1),
        ("pp16 @ d8", 1), ("pp32 @ d8", 1), ("tg4 @ d8", 1),
        ("pp16", 2), ("pp32", 2), ("tg4", 2),
        ("pp16 @ d8", 2), ("pp32 @ d8", 2), ("tg4 @ d8", 2),
    ]  # fmt: skip


def test_prefill_is_cut_into_steps_that_the_engine_takes():
    rows, sessions = run(Workload(prompts=(20,), generated=(1,), repetitions=1, warmup=0))
    lengths = [tokens.shape[1] for tokens, _, _ in sessions[0].steps]
    assert lengths == [8, 8, 4, 1]
    assert [len(steps) for steps in rows[0].step_ns] == [3]


def test_generation_feeds_one_token_a_step_after_the_depth():
    _, (session,) = run(
        Workload(prompts=(1,), generated=(5,), depths=(10,), repetitions=1, warmup=0)
    )
    generated = session.steps[-5:]
    assert [tokens.shape for tokens, _, _ in generated] == [(1, 1)] * 5
    assert [int(positions[0, 0]) for _, positions, _ in generated] == [10, 11, 12, 13, 14]


def test_every_repetition_starts_empty_on_fresh_tokens_and_warm_up_does_not_count():
    rows, (session,) = run(Workload(prompts=(8,), generated=(1,), repetitions=5, warmup=2))
    assert [len(row.samples) for row in rows] == [5, 5]
    assert session.resets == 14
    prompts = [tokens.tobytes() for tokens, _, _ in session.steps if tokens.shape[1] == 8]
    assert len(set(prompts)) == 7


def test_the_same_seed_gives_the_same_tokens():
    workload = Workload(prompts=(8,), generated=(2,), repetitions=2, seed=3)
    (_, (first,)), (_, (second,)) = run(workload), run(workload)
    assert [s[0].tolist() for s in first.steps] == [s[0].tolist() for s in second.steps]


def test_throughput_and_times_follow_from_the_clock(monkeypatch):
    ticks = iter(range(0, 10**12, 2_000_000))  # each reading 2 ms after the one before
    monkeypatch.setattr(clock, "now_ns", lambda: next(ticks))
    (prefill, decode), _ = run(Workload(prompts=(16,), generated=(4,), batches=(2,)))
    # A step lies between two readings: 2 ms. Prefill: 2 steps for 2 rows of 16; decode: 4 steps.
    assert prefill.mean == pytest.approx(2 * 16 / 0.004)
    assert prefill.ttft_ms is not None
    assert prefill.ttft_ms.mean == pytest.approx(4.0)
    assert decode.mean == pytest.approx(2 * 4 / 0.008)
    assert decode.tpot_ms is not None
    assert decode.tpot_ms.mean == pytest.approx(2.0)
    assert decode.itl_ms is not None
    assert (decode.itl_ms.p50, decode.itl_ms.p99) == (pytest.approx(2.0), pytest.approx(2.0))
    assert decode.ci95 == (pytest.approx(decode.mean), pytest.approx(decode.mean))


def test_fewer_than_five_repetitions_are_invalid_with_the_reason():
    rows, _ = run(Workload(prompts=(4,), generated=(2,), repetitions=4))
    assert [row.valid for row in rows] == [False, False]
    assert rows[0].invalid_reason == "4 repetitions, fewer than 5"
    rows, _ = run(Workload(prompts=(4,), generated=(2,), repetitions=5))
    assert all(row.valid and row.invalid_reason is None for row in rows)


def test_a_session_is_opened_and_closed_once_for_each_batch_size():
    _, sessions = run(Workload(prompts=(4,), generated=(2,), batches=(1, 3), repetitions=1))
    assert [session.rows for session in sessions] == [1, 3]
    assert all(session.closed for session in sessions)


def test_the_interval_is_students():
    samples = np.array([9.0, 10.0, 11.0, 10.5, 9.5])
    half = stats.t.ppf(0.975, 4) * samples.std(ddof=1) / np.sqrt(5)
    assert confidence_interval(samples) == (pytest.approx(10 - half), pytest.approx(10 + half))
    assert confidence_interval(np.array([3.0])) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Workload(prompts=(97,)), "pp97 fills 97 positions and the cache holds 96"),
        (Workload(generated=(90,), prompts=(1,), depths=(7,)), "tg90 @ d7 fills 97"),
        (Workload(prompts=(1,), generated=(1,), batches=(5,)), "batch 5 is over"),
    ],
)
def test_a_workload_that_does_not_fit_is_refused(workload, says):
    with pytest.raises(BadInput, match=says):
        workload.require_fit(LIMITS)


def test_a_decode_step_reads_every_weight_once_and_the_filled_cache():
    spec = preset_of_size("135m").spec
    cache = 2 * 30 * 3 * 64 * 100 * 4
    assert bytes_per_decode_step(spec, FP32, 100, 1) == 4 * 134515008 + cache
    untied = preset_of_size("7b").spec
    embedding = 32000 * 4096
    weights = 2 * (untied.parameters - embedding + 4096)
    assert bytes_per_decode_step(untied, PRECISIONS["fp16"], 0, 1) == weights
