"""Energy of timed windows: what a counter and a gauge make of them, and when it is none."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.machine import energy
from llx.bench.machine.energy import CounterMeter, GaugeMeter, Meter, integrated
from llx.bench.sessions.fake import FakeSession
from llx.bench.speed.samples import Workload, samples
from llx.graphs.contract import Limits

S = 10**9


class Counted:
    """A counter of a machine that uses 20 W: joules by a clock of its own."""

    source, rail, step_s = "double", "all of it", 1e-3

    def __init__(self, clock):
        self.clock, self.reads = clock, 0

    def read(self):
        self.reads += 1
        return 20 * self.clock[0]

    def joules(self, before, after, seconds):
        return (after - before) / S


@pytest.fixture
def clock():
    return [0]


@pytest.fixture
def meter(clock):
    return CounterMeter(Counted(clock), lambda: clock[0])


def test_a_counter_gives_the_energy_of_the_windows_alone(clock, meter):
    for _ in range(5):
        clock[0] += 7 * S  # what fills the cache is not in it
        with meter.window():
            clock[0] += 2 * S
    found = meter.take(tokens=640)
    assert (found.source, found.rail, found.samples) == ("double", "all of it", 10)
    assert found.window == pytest.approx(10)
    assert found.joules == pytest.approx(200)
    assert found.mj_per_token == pytest.approx(200_000 / 640)
    assert (found.coverage, found.reason) == (1.0, None)
    assert found.error == pytest.approx(5e-4)


def test_each_test_has_its_own_windows(clock, meter):
    for seconds in (1, 3):
        with meter.window():
            clock[0] += seconds * S
        assert meter.take(1).joules == pytest.approx(20 * seconds)


def test_a_window_too_short_for_its_counter_is_not_measured(clock, meter):
    for _ in range(5):
        with meter.window():
            clock[0] += 9 * 10**6
    found = meter.take(5)
    assert (found.joules, found.mj_per_token) == (None, None)
    assert "too short" in found.reason
    assert "longer lengths" in found.reason


def test_one_reading_that_fails_is_no_smaller_energy(clock, meter, monkeypatch):
    answers = iter([0, 20 * S, None, 60 * S])
    monkeypatch.setattr(meter._counter, "read", lambda: next(answers))
    for _ in range(2):
        with meter.window():
            clock[0] += S
    assert meter.take(2).joules is None


@pytest.mark.parametrize("joules", [-1.0, 1e9, float("nan")])
def test_an_energy_that_cannot_be_is_not_measured(clock, meter, monkeypatch, joules):
    monkeypatch.setattr(meter._counter, "joules", lambda *_: joules)
    with meter.window():
        clock[0] += S
    found = meter.take(1)
    assert found.joules is None
    assert "told of" in found.reason


def test_what_is_used_without_an_engine_stands_beside_and_is_not_subtracted(
    clock, meter, monkeypatch
):
    def sleep(seconds):
        clock[0] += int(seconds * S)

    monkeypatch.setattr(energy.time, "sleep", sleep)
    meter.measure_idle()
    with meter.window():
        clock[0] += S
    found = meter.take(1)
    assert found.idle_watts == pytest.approx(20)
    assert found.joules == pytest.approx(20)


def test_without_a_source_the_reason_is_all():
    meter = Meter("nothing counts here")
    meter.measure_idle()
    with meter.window():
        pass
    found = meter.take(7)
    assert (found.joules, found.reason, found.tokens) == (None, "nothing counts here", 7)


watts = st.floats(0, 500)


@settings(deadline=None)
@given(watts, st.integers(2, 60), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_a_steady_power_is_found_whatever_the_windows(power, tenths, lengths):
    windows, at = [], S // 7
    for length in lengths:
        windows.append((at, at + length * tenths * S // 10))
        at = windows[-1][1] + S // 3
    taken = [(i * S // 10, power) for i in range(at * 10 // S + 3)]
    found = integrated(taken, windows, 0.25)
    if found.joules is not None:
        assert found.joules == pytest.approx(power * found.window, rel=1e-6, abs=1e-9)
        assert found.coverage == pytest.approx(1)
    else:
        assert found.samples < energy.LEAST_SAMPLES


@settings(deadline=None)
@given(st.lists(watts, min_size=40, max_size=80), st.integers(0, 15), st.integers(20, 35))
def test_windows_side_by_side_add_up(powers, first, cut):
    taken = [(i * S // 10, power) for i, power in enumerate(powers)]
    whole, left, right = (
        integrated(taken, [(a * S // 10, b * S // 10)], 0.25)
        for a, b in ((first, 39), (first, cut), (cut, 39))
    )
    parts = [part.joules for part in (left, right)]
    if None not in parts:
        assert whole.joules == pytest.approx(sum(parts), rel=1e-9, abs=1e-9)
    assert whole.joules <= max(powers) * whole.window * (1 + 1e-9)


def test_a_ramp_is_integrated_between_the_readings():
    taken = [(i * S, float(i)) for i in range(21)]
    found = integrated(taken, [(S // 2, 20 * S)], 2.5)
    assert found.joules == pytest.approx((20**2 - 0.5**2) / 2)


def test_a_hole_in_the_readings_is_no_measurement():
    taken = [(i * S // 10, 10.0) for i in range(101) if not 30 < i < 60]
    found = integrated(taken, [(0, 10 * S)], 0.25)
    assert found.joules is None
    assert found.coverage == pytest.approx(0.7)
    assert "cover 70 % of 10 s" in found.reason


def test_a_small_hole_counts_at_the_mean_and_is_told():
    taken = [(i * S // 10, 10.0) for i in range(101) if not 30 < i < 36]
    found = integrated(taken, [(0, 10 * S)], 0.25)
    assert found.joules == pytest.approx(100)
    assert found.coverage == pytest.approx(0.94)


class Steady:
    """A gauge that always shows 5 W, and now and then what cannot be."""

    source, rail, period_s = "double", "one rail", 0.002

    def __init__(self):
        self.closed, self.asked, self.threads = False, 0, set()

    def watts(self):
        self.asked += 1
        self.threads.add(threading.current_thread())
        return (5.0, 5.0, None, 5.0, -3.0, 5.0)[self.asked % 6]

    def close(self):
        self.closed = True


def test_a_gauge_is_asked_by_a_thread_of_its_own_until_the_meter_is_closed(monkeypatch):
    monkeypatch.setattr(energy, "LEAST_COVERAGE", 0.0)
    gauge = Steady()
    meter = GaugeMeter(gauge)
    with meter.window():
        while gauge.asked < 120:
            time.sleep(0.01)
    found = meter.take(10)
    meter.close()
    assert gauge.closed
    assert threading.current_thread() not in gauge.threads
    if found.joules is not None:  # a machine under load may leave holes, and then it says so
        assert found.joules == pytest.approx(5 * found.window)
    asked = gauge.asked
    time.sleep(0.05)
    assert gauge.asked == asked


def test_windows_hold_the_steps_that_count_and_neither_warm_up_nor_the_filling(monkeypatch):
    limits = Limits(capacity=64, max_new_tokens=16, max_rows=1, vocab=300)
    inside, events = [False], []

    class Window:
        def __enter__(self):
            inside[0] = True

        def __exit__(self, *_):
            inside[0] = False

    enqueue = FakeSession.enqueue

    def noted(self, tokens, positions, index):
        events.append((int(positions.min()), inside[0]))
        enqueue(self, tokens, positions, index)

    monkeypatch.setattr(FakeSession, "enqueue", noted)
    workload = Workload(prompts=(), generated=(2,), depths=(5,), repetitions=2, warmup=1)
    list(samples(lambda rows: FakeSession(limits, rows), workload, window=Window))
    warm, counted = [(0, False), (5, False), (6, False)], [(0, False), (5, True), (6, True)]
    assert events[:9] == warm + counted + counted
    assert not any(within for _, within in events[9:])  # the audit
