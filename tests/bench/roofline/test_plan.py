"""Predictions: exact for a known model, monotone for all, silent where a figure is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.roofline.plan import (
    BANDWIDTH_SHARE,
    COMPUTE_SHARE,
    OWN_RESERVE_BYTES,
    SHARED_RESERVE_BYTES,
    Sizes,
    memory_of,
    plan,
    sizes_for,
)
from llx.bench.roofline.work import bytes_per_decode_step, step_work
from llx.devices import DEVICES, Figure, devices_named
from llx.errors import BadInput
from llx.llama.presets import PRESETS, preset_of_size
from llx.precision import PRECISIONS

LLAMA2 = preset_of_size("7b").spec
USUAL = Sizes(capacity=2048, max_new_tokens=512, rows=1, prompt=512)
CHOSEN = st.sampled_from([preset.spec for preset in PRESETS])
DEVICE = st.sampled_from(DEVICES)
PRECISION = st.sampled_from(list(PRECISIONS.values()))


def device_named(name):
    return devices_named(name)[0]


def predict(precision, device, sizes=USUAL, spec=LLAMA2):
    return plan(spec, PRECISIONS[precision], sizes, device_named(device))


def test_memory_of_llama_2_7b_on_orin_nx_16():
    memory = predict("fp16", "orin-nx-16").memory
    assert memory.weights_bytes == 2 * 6738415616 + 2 * 2048 * 128  # and the RoPE tables
    assert memory.cache_bytes == 2048 * 524288
    assert memory.activation_bytes == 512 * (32000 * 6 + 2048)
    needed = memory.weights_bytes + memory.cache_bytes + memory.activation_bytes
    assert memory.needed_bytes == needed
    assert memory.reserved_bytes == SHARED_RESERVE_BYTES
    assert memory.left_bytes == 16 * 10**9 - SHARED_RESERVE_BYTES - needed
    assert not memory.fits
    assert predict("fp16", "t4").memory.reserved_bytes == OWN_RESERVE_BYTES


def test_7b_fits_orin_nano_8_in_int4_and_not_in_fp16():
    assert not predict("fp16", "orin-nano-8").memory.fits
    assert not predict("int8-wo", "orin-nano-8").memory.fits
    assert predict("int4", "orin-nano-8").memory.fits
    assert predict("fp16", "orin-nano-8").best_precision == "int4"
    assert predict("int4", "orin-nx-16").best_precision == "int8-wo"
    assert predict("int4", "agx-orin-64").best_precision == "fp16"
    assert predict("int4", "agx-orin-64", spec=preset_of_size("405b").spec).best_precision is None


def test_decode_at_the_specification_is_bandwidth_by_bytes():
    decode = predict("fp16", "orin-nx-16").decode
    read = bytes_per_decode_step(LLAMA2, PRECISIONS["fp16"], 512, 1)
    assert decode.read_bytes == read
    assert decode.tok_per_s_at_spec == pytest.approx(102.4e9 / read)
    whole = bytes_per_decode_step(LLAMA2, PRECISIONS["fp16"], 2048, 1)
    assert decode.tok_per_s_realistic == pytest.approx(BANDWIDTH_SHARE * 102.4e9 / whole)
    assert decode.memory_ms == pytest.approx(1e3 * read / 102.4e9)
    assert decode.bound == "memory"


def test_prefill_at_the_specification_is_rate_by_flops():
    prefill = predict("fp16", "orin-nx-16").prefill
    assert prefill.bound == "compute"
    assert prefill.tok_per_s_at_spec == pytest.approx(512 * 15e12 / prefill.flops)
    assert prefill.tok_per_s_realistic == pytest.approx(COMPUTE_SHARE * prefill.tok_per_s_at_spec)


def test_weights_alone_in_few_bits_are_multiplied_at_the_rate_of_fp16():
    dense, four = predict("fp16", "a10"), predict("int4", "a10")
    assert four.prefill.compute_ms == dense.prefill.compute_ms
    assert four.decode.memory_ms < dense.decode.memory_ms / 3


def test_int4_is_not_for_turing():
    found = predict("int4", "t4")
    assert (found.lacks, found.decode.tok_per_s_at_spec) == ("int4", None)
    assert found.best_precision in ("fp16", "int8-wo")


def test_fp8_multiplies_the_linear_layers_alone_at_its_own_rate():
    work = step_work(LLAMA2, PRECISIONS["fp8"], 512, 512, 1)
    expected = work.linear_flops / 517e12 + work.other_flops / 258.5e12
    assert predict("fp8", "thor-t5000").prefill.compute_ms == pytest.approx(1e3 * expected)
    assert predict("fp8", "a10").lacks == "fp8"


def test_int8_multiplies_the_linear_layers_alone_at_its_own_rate():
    work = step_work(LLAMA2, PRECISIONS["int8"], 512, 512, 1)
    expected = work.linear_flops / 250e12 + work.other_flops / 125e12
    assert predict("int8", "a10").prefill.compute_ms == pytest.approx(1e3 * expected)


@pytest.mark.parametrize(
    ("precision", "device"), [("int8", "thor-t5000"), ("fp8", "thor-t4000"), ("fp32", "t4")]
)
def test_an_unknown_rate_leaves_the_prefill_unknown(precision, device):
    unknown = predict(precision, device)
    assert unknown.lacks is None
    assert unknown.prefill.compute_ms is None
    assert unknown.prefill.bound is None
    assert unknown.prefill.tok_per_s_at_spec is unknown.prefill.tok_per_s_realistic is None
    assert unknown.decode.tok_per_s_at_spec == pytest.approx(1e3 / unknown.decode.memory_ms)
    assert "unknown" in unknown.notes[0]


def test_a_precision_that_the_chip_lacks_has_no_speed():
    lacking = predict("bf16", "t4")
    assert lacking.lacks == "bf16"
    assert lacking.decode.tok_per_s_at_spec is lacking.prefill.tok_per_s_at_spec is None
    assert "no bf16" in lacking.notes[0]
    assert predict("bf16", "a10").lacks is None


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_decode_step_is_bound_by_memory_wherever_the_rate_is_known(preset, device):
    """What `plan` takes for granted where the rate is unknown."""
    sizes = Sizes(capacity=2048, max_new_tokens=512, rows=8, prompt=2048)
    for precision in PRECISIONS.values():
        assert plan(preset.spec, precision, sizes, device).decode.bound in ("memory", None)


@settings(max_examples=60, deadline=None)
@given(CHOSEN, PRECISION, DEVICE, st.integers(1, 2000), st.integers(1, 7))
def test_more_context_or_rows_need_more_memory(spec, precision, device, capacity, rows):
    sizes = Sizes(capacity=capacity, max_new_tokens=1, rows=rows, prompt=1)
    needed = memory_of(spec, precision, sizes, device).needed_bytes
    for larger in (replace(sizes, capacity=capacity + 1), replace(sizes, rows=rows + 1)):
        assert memory_of(spec, precision, larger, device).needed_bytes > needed


@settings(max_examples=60, deadline=None)
@given(CHOSEN, PRECISION, DEVICE, st.integers(1, 2047), st.floats(1.01, 10))
def test_decode_slows_with_depth_and_quickens_with_bandwidth(
    spec, precision, device, filled, factor
):
    bandwidth = Figure(device.bandwidth_gb_per_s.value * factor, "D")
    faster = replace(device, bandwidth_gb_per_s=bandwidth)
    sizes = replace(USUAL, prompt=filled)
    deeper = replace(USUAL, prompt=filled + 1)
    here = plan(spec, precision, sizes, device)
    if here.lacks:
        return
    speed = here.decode.tok_per_s_at_spec
    assert plan(spec, precision, deeper, device).decode.tok_per_s_at_spec < speed
    assert plan(spec, precision, sizes, faster).decode.tok_per_s_at_spec > speed
    assert here.decode.tok_per_s_realistic < speed


@settings(max_examples=60, deadline=None)
@given(CHOSEN, PRECISION, DEVICE, st.integers(512, 8000))
def test_a_cache_that_is_empty_is_paid_for(spec, precision, device, capacity):
    """What must be read is what is filled; an engine reads the rest as well."""
    small, large = (replace(USUAL, capacity=n) for n in (capacity, capacity + 512))
    less, more = (plan(spec, precision, sizes, device).decode for sizes in (small, large))
    assert less.tok_per_s_at_spec == more.tok_per_s_at_spec
    assert less.tok_per_s_realistic is None or less.tok_per_s_realistic > more.tok_per_s_realistic


@settings(max_examples=60, deadline=None)
@given(CHOSEN, PRECISION, DEVICE, st.floats(0.1, 10))
def test_what_fits_a_device_fits_a_larger_one(spec, precision, device, more_gb):
    larger = replace(device, memory_gb=Figure(device.memory_gb.value + more_gb, "D"))
    here, there = (memory_of(spec, precision, USUAL, d) for d in (device, larger))
    assert there.left_bytes > here.left_bytes
    assert there.fits or not here.fits


def test_sizes_follow_the_contract_of_an_export():
    assert sizes_for(LLAMA2, None, 1, None) == USUAL
    assert sizes_for(LLAMA2, 100, 2, None) == Sizes(
        capacity=100, max_new_tokens=100, rows=2, prompt=100
    )


@pytest.mark.parametrize(
    ("context", "rows", "prompt", "says"),
    [
        (4097, 1, None, "--context 4097 is outside the model's 1…4096"),
        (None, 9, None, "--batch 9"),
        (None, 0, None, "--batch 0"),
        (100, 1, 101, "--prompt 101"),
        (100, 1, 0, "--prompt 0"),
    ],
)
def test_sizes_that_an_export_would_not_hold(context, rows, prompt, says):
    with pytest.raises(BadInput, match=says):
        sizes_for(LLAMA2, context, rows, prompt)
