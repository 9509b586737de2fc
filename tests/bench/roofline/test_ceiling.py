"""Speeds against the roofline: shares, what cannot be, what is doubtful; and the probe itself."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from llx.bench.roofline import ceiling as probing
from llx.bench.roofline.ceiling import CeilingJob, higher, measure_ceiling, together
from llx.bench.roofline.work import bytes_per_step, held_to, step_work
from llx.bench.speed.rows import speed_row
from llx.bench.speed.samples import Samples, SpeedTest, Workload
from llx.devices import device_of, devices_named
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from llx.progress import silent
from llx.result import Ceiling

SPEC = preset_of_size("135m").spec
FP32, FP16 = PRECISIONS["fp32"], PRECISIONS["fp16"]
PER_STEP = 512
CEILING = Ceiling(
    by="numpy",
    working_set=1 << 28,
    threads=2,
    read_bytes_per_s=30e9,
    read_highest=30e9,
    read_samples=[29e9, 30e9, 30e9],
    flops_per_s=1e11,
    flops_highest=1e11,
    flops_samples=[1e11],
)
TESTS = {
    "pp": SpeedTest(isl=600, osl=0, depth=0, batch=1),
    "tg": SpeedTest(isl=0, osl=16, depth=100, batch=1),
    "req": SpeedTest(isl=40, osl=8, depth=0, batch=2),
}


def steps_of(test):
    """New tokens and filled positions of each step, written out."""
    prompt = [(600, 0)] if test.isl == 600 else [(test.isl, 0)] if test.isl else []
    chunks = [(512, 512), (88, 600)] if prompt and test.isl == 600 else prompt and [(40, 40)]
    first = test.depth + test.isl
    count = test.osl - 1 if test.isl and test.osl else test.osl
    return [*chunks, *((1, first + i + 1) for i in range(count))]


def least_s(test, ceiling=CEILING, precision=FP32):
    return sum(
        max(
            bytes_per_step(SPEC, precision, new, filled, test.batch) / ceiling.read_bytes_per_s,
            step_work(SPEC, precision, new, filled, test.batch).flops / ceiling.flops_per_s,
        )
        for new, filled in steps_of(test)
    )


def row_at(test, share, precision=FP32):
    """A row whose repetitions took the least time by the share."""
    total_ns = least_s(test, precision=precision) / share * 1e9
    count = len(steps_of(test))
    step_ns = [[round(total_ns / count)] * count for _ in range(5)]
    return speed_row(Samples(test, step_ns, None, []), Workload(), SPEC, precision)


def held(row, ceiling=CEILING, precision=FP32, device=None):
    return held_to(row, ceiling, SPEC, precision, PER_STEP, device)


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
@pytest.mark.parametrize("share", [0.2, 0.8, 1.01, 1.1])
def test_the_share_is_the_least_time_by_the_time_taken(test, share):
    row = held(row_at(test, share))
    assert row.roofline_probe == pytest.approx(share, rel=1e-4)
    assert row.valid == (share < 1.03)
    assert bool(row.suspect) == (share < 0.3)
    if share > 1.03:
        assert "110 % of the highest roofline" in row.invalid_reason
    times = {"pp": row.ttft_ms, "tg": row.tpot_ms, "req": row.e2e_ms}
    took = next(times[name] for name, one in TESTS.items() if one == test).mean
    assert row.predicted_ms / took == pytest.approx(share, rel=1e-4)


def test_a_prefill_is_held_to_flops_and_a_decode_to_reads():
    more = replace(CEILING, flops_per_s=2e11, flops_highest=2e11)
    pp, tg = (held(row_at(TESTS[name], 0.8), more) for name in ("pp", "tg"))
    assert pp.roofline_probe == pytest.approx(0.4, rel=0.05)  # a short last step reads more
    assert tg.roofline_probe == pytest.approx(0.8, rel=1e-4)


def test_what_the_machine_did_at_its_best_moment_is_possible_and_no_more():
    row = row_at(TESTS["tg"], 1.1)
    found = held(row, replace(CEILING, read_highest=33e9))
    assert found.valid
    assert found.roofline_probe == pytest.approx(1.1, rel=1e-4)
    assert not held(row, replace(CEILING, read_highest=31e9)).valid


def test_other_reasons_stay():
    row = replace(row_at(TESTS["tg"], 1.5), valid=False, invalid_reason="no warm-up")
    assert held(row).invalid_reason.startswith("no warm-up; 150 % of the highest roofline")


def test_without_a_flop_rate_nothing_is_said_of_a_prefill():
    unknown = replace(CEILING, flops_per_s=None, flops_highest=None)
    assert held(row_at(TESTS["pp"], 0.8), unknown).roofline_probe is None
    assert held(row_at(TESTS["tg"], 0.8), unknown).roofline_probe == pytest.approx(0.8, rel=1e-4)


def test_the_share_of_the_specification_is_by_the_catalogue():
    (device,) = devices_named("agx-orin-64")
    row = held(row_at(TESTS["tg"], 0.8, FP16), CEILING, FP16, device)
    times = device.bandwidth_gb_per_s.value * 1e9 / CEILING.read_bytes_per_s
    assert row.roofline_spec == pytest.approx(0.8 / times, rel=1e-3)
    assert held(row_at(TESTS["tg"], 0.8)).roofline_spec is None
    assert held(row_at(TESTS["pp"], 0.8), device=device).roofline_spec is None  # of fp32 none is


@pytest.mark.parametrize(
    ("name", "gib", "wanted"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80-sxm"),
        ("NVIDIA A100 80GB PCIe", 80, "a100-80-pcie"),
        ("NVIDIA H100 80GB HBM3", 80, "h100-sxm"),
        ("NVIDIA H200", 140, "h200-sxm"),
        ("NVIDIA H100", 80, None),  # of two bandwidths
        ("NVIDIA RTX A5000", 24, None),
        ("NVIDIA T400", 4, None),
        ("llvmpipe", 16, None),
    ],
)
def test_a_gpu_is_found_in_the_catalogue_by_its_name_and_memory(name, gib, wanted):
    found = device_of(name, gib << 30)
    assert (found and found.name) == wanted


@pytest.mark.parametrize("engine", ["ort", "torch"])
def test_the_probe_takes_the_best_of_the_libraries(engine, monkeypatch):
    monkeypatch.setattr(probing, "MOMENTS", 3)
    found = measure_ceiling(CeilingJob(engine, "fp32", 1, 1 << 20), silent)
    assert found.by in ("numpy", "onnxruntime" if engine == "ort" else "torch")
    assert found.working_set == probing.CPU.least
    assert found.read_bytes_per_s > 1e8
    assert found.flops_per_s > 1e8


def test_no_flop_rate_stands_for_halves_that_onnx_runtime_multiplies(monkeypatch):
    monkeypatch.setattr(probing, "MOMENTS", 3)
    found = measure_ceiling(CeilingJob("ort", "fp16", 1, 1 << 20), silent)
    assert found.flops_per_s is None


@pytest.mark.parametrize(("engine", "flops"), [("ort", 9.0), ("torch", 3.0), ("openvino", 9.0)])
def test_products_of_integers_count_where_an_engine_may_multiply_them(monkeypatch, engine, flops):
    monkeypatch.setattr(probing, "MOMENTS", 1)
    rates = iter([[2.0], [3.0], [9.0]])  # numpy's, the engine's library's, of integers
    monkeypatch.setattr(probing, "_multiplied", lambda *_: next(rates))
    found = measure_ceiling(CeilingJob(engine, "fp32", 1, 1 << 20, integers=True), silent)
    assert found.flops_per_s == flops


def test_a_product_of_integers_runs(monkeypatch):
    product = probing._onnxruntime((3, 64, 5), 1, integers=True)
    (found,) = product()
    assert found.shape == (3, 5)
    assert found.dtype == np.int32


def test_the_better_of_two_libraries_counts_for_reads_and_flops_apart():
    first = replace(CEILING, by="a", flops_per_s=2e11, flops_highest=3e11, flops_samples=[2e11])
    second = replace(CEILING, by="b", read_bytes_per_s=40e9)
    best = higher(first, second)
    assert (best.by, best.read_bytes_per_s) == ("b", 40e9)
    assert (best.flops_per_s, best.flops_highest, best.flops_samples) == (2e11, 3e11, [2e11])


def test_two_probes_of_a_run_have_the_median_and_the_highest_of_all_moments():
    first = replace(CEILING, by="a", read_samples=[10.0, 20.0], flops_samples=[1.0])
    second = replace(CEILING, by="b", read_samples=[60.0], flops_samples=[5.0, 2.0])
    both = together(first, second)
    assert (both.by, both.read_bytes_per_s, both.read_highest) == ("a and b", 20, 60)
    assert (both.flops_per_s, both.flops_highest) == (2, 5)
    assert together(first, first).by == "a"


def test_libraries_are_given_the_engines_threads_and_the_environment_is_left(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with probing._threads_of_libraries(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_moment_is_as_many_runs_as_it_has_time_for(monkeypatch):
    times = iter([0, 30_000_000, 60_000_000])  # nanoseconds: it began, and after each run
    monkeypatch.setattr(probing.clock, "now_ns", lambda: next(times))
    assert probing._rate(lambda: None, 300) == pytest.approx(2 * 300 / 0.06)


@pytest.mark.parametrize(("row_s", "rows"), [(1e-5, 512), (0.01, 50), (0.1, 8)])
def test_a_library_that_is_slow_in_a_type_is_asked_for_fewer_rows(monkeypatch, row_s, rows):
    clock, asked = [0.0], []

    def library(rows, inputs, outputs):
        asked.append(rows)

        def product():
            clock[0] += rows * row_s

        return product

    monkeypatch.setattr(probing.clock, "now_ns", lambda: round(clock[0] * 1e9))
    rates = probing._multiplied(library, probing.CPU)
    assert asked[-1] == rows
    assert rates == pytest.approx([2 * 2048**2 / row_s] * probing.MOMENTS, rel=1e-3)
    assert clock[0] < 30 * max(0.5, 8 * row_s)
