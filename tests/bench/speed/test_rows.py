"""The harness, on a session that records what it is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llx.bench import clock
from llx.bench.roofline.work import bytes_per_decode_step
from llx.bench.sessions.fake import FakeSession
from llx.bench.speed.samples import Workload
from llx.errors import BadInput
from llx.graphs.contract import Limits
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from tests.checkpoints import TINY
from tests.rows import measure

LIMITS = Limits(capacity=96, max_new_tokens=8, max_rows=4, vocab=TINY.vocab)
FP32 = PRECISIONS["fp32"]


def run(workload, spec=TINY):
    sessions = []

    def open_rows(rows):
        sessions.append(FakeSession(LIMITS, rows))
        return sessions[-1]

    return measure(open_rows, workload, spec, FP32), sessions


def timed_steps(session, rows):
    """The steps that count: what follows them looks at the session, and is no sample."""
    return session.steps[: sum(len(run) for row in rows for run in row.step_ns)]


def test_a_workload_is_a_full_cross_product_named_as_the_field_names_it():
    workload = Workload(
        prompts=(16, 32), generated=(4,), requests=((16, 4),), depths=(0, 8), batches=(1, 2)
    )
    assert [(test.name, test.batch) for test in workload.tests()] == [
        ("pp16", 1), ("pp32", 1), ("tg4", 1), ("req16:4", 1),
        ("pp16 @ d8", 1), ("pp32 @ d8", 1), ("tg4 @ d8", 1), ("req16:4 @ d8", 1),
        ("pp16", 2), ("pp32", 2), ("tg4", 2), ("req16:4", 2),
        ("pp16 @ d8", 2), ("pp32 @ d8", 2), ("tg4 @ d8", 2), ("req16:4 @ d8", 2),
    ]  # fmt: skip


def test_prefill_is_cut_into_steps_that_the_engine_takes():
    rows, (session,) = run(Workload(prompts=(20,), generated=(), repetitions=1, warmup=0))
    assert [tokens.shape[1] for tokens, _, _ in timed_steps(session, rows)] == [8, 8, 4]
    assert [len(steps) for steps in rows[0].step_ns] == [3]


def test_generation_feeds_one_token_a_step_after_the_depth():
    _, (session,) = run(Workload(prompts=(), generated=(5,), depths=(10,), repetitions=1, warmup=0))
    generated = session.steps[2:7]  # the depth takes two
    assert [tokens.shape for tokens, _, _ in generated] == [(1, 1)] * 5
    assert [int(positions[0, 0]) for _, positions, _ in generated] == [10, 11, 12, 13, 14]


def test_a_request_is_a_prefill_and_then_a_step_for_each_token_but_its_first():
    workload = Workload(prompts=(), generated=(), requests=((10, 3),), repetitions=1, warmup=0)
    rows, (session,) = run(workload)
    steps = timed_steps(session, rows)
    assert [positions[0].tolist() for _, positions, _ in steps] == [
        [*range(8)], [8, 9], [10], [11]
    ]  # fmt: skip
    assert next(iter(workload.tests())).steps(LIMITS) == 4


def test_every_repetition_starts_empty_on_fresh_tokens_and_warm_up_does_not_count():
    rows, (session,) = run(Workload(prompts=(8,), generated=(), repetitions=5, warmup=2))
    assert [len(row.samples) for row in rows] == [5]
    assert (rows[0].warmup, rows[0].seed) == (2, 0)
    prompts = [tokens.tobytes() for tokens, _, _ in session.steps]
    assert session.resets == len(prompts)  # each is a step of its own
    assert len(set(prompts[:7])) == 7
    assert prompts[7] == prompts[6]  # the last is run again, and is no sample


def test_tests_of_a_workload_share_no_prompt():
    _, (session,) = run(Workload(prompts=(4, 8), generated=(), repetitions=1, warmup=0))
    of_four = [tokens[0, :4].tolist() for tokens, _, _ in session.steps if tokens.shape[1] == 4]
    of_eight = [tokens[0, :4].tolist() for tokens, _, _ in session.steps if tokens.shape[1] == 8]
    assert of_four[0] != of_eight[0]


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


def test_what_lies_before_a_window_need_not_be_read_and_is():
    windowed = replace(TINY, window=4, windowed=(0, 1))
    (row,), _ = run(Workload(prompts=(), generated=(4,), depths=(20,), repetitions=1), windowed)
    (plain,), _ = run(Workload(prompts=(), generated=(4,), depths=(20,), repetitions=1))
    spared = 2 * 2 * TINY.kv_dim * (20 + 2 - 4) * 4  # two layers' keys and values in fp32
    assert plain.bytes_per_step - row.bytes_per_step == spared
    assert row.bytes_per_step_actual == plain.bytes_per_step_actual


def test_a_row_may_be_invalid_for_several_reasons():
    (row,), _ = run(Workload(prompts=(4,), generated=(), repetitions=2, warmup=0))
    assert row.invalid_reason == "2 repetitions, fewer than 5; no warm-up"


def test_the_times_of_a_request_follow_from_their_definitions(monkeypatch):
    ticks = iter(range(0, 10**12, 2_000_000))
    monkeypatch.setattr(clock, "now_ns", lambda: next(ticks))
    (row, single), _ = run(
        Workload(prompts=(), generated=(), requests=((16, 4), (8, 1)), batches=(2,))
    )
    # Prefill: 2 steps; three more tokens take a step each; a step takes 2 ms.
    assert (row.isl, row.osl) == (16, 4)
    assert row.ttft_ms.mean == pytest.approx(4.0)
    assert row.e2e_ms.mean == pytest.approx(10.0)
    assert row.tpot_ms.mean == pytest.approx((10.0 - 4.0) / 3)
    assert row.itl_ms.p99 == pytest.approx(2.0)
    assert row.mean == pytest.approx(2 * 4 / 0.010)
    assert row.bytes_per_step == bytes_per_decode_step(TINY, FP32, 16 + 2, 2)
    assert (single.tpot_ms, single.itl_ms) == (None, None)
    assert single.e2e_ms.mean == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Workload(prompts=(97,)), "pp97 fills 97 positions and the cache holds 96"),
        (Workload(generated=(90,), prompts=(1,), depths=(7,)), "tg90 @ d7 fills 97"),
        (Workload(prompts=(), generated=(), requests=((90, 8),)), "req90:8 fills 97"),
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
