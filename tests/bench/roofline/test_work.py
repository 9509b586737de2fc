"""Bytes and FLOPs by hand, and what must hold for any LLaMA."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.roofline.work import (
    activation_bytes,
    bytes_per_decode_step,
    bytes_per_step,
    bytes_where_masked,
    cache_bytes,
    linear_parameters,
    prefill_work,
    rope_table_bytes,
    seen_cache_bytes,
    step_work,
    stored_bytes,
    weight_bytes,
    weights_bytes,
)
from llx.exporter.weights import layout_of
from llx.llama.presets import PRESETS, preset_named, preset_of_size
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Part, Weight, weights_of
from llx.precision import PRECISIONS, Precision
from tests.checkpoints import KIN_SPECS, SPECS, TINY

LLAMA2 = preset_of_size("7b").spec
LINEAR = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)  # 6,476,005,376
REST = 6738415616 - LINEAR
FP16, FP32 = PRECISIONS["fp16"], PRECISIONS["fp32"]


@st.composite
def specs(draw):
    kv_heads = draw(st.integers(1, 4))
    return LlamaSpec(
        layers=draw(st.integers(1, 3)),
        dim=draw(st.integers(1, 200)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 40)),
        ffn_dim=draw(st.integers(1, 300)),
        vocab=draw(st.integers(1, 500)),
        context=draw(st.integers(1, 64)),
        tied=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )


def test_weights_of_llama_2_7b_in_every_precision():
    assert weights_bytes(LLAMA2, FP16) == 2 * 6738415616
    assert weights_bytes(LLAMA2, FP32) == 4 * 6738415616
    assert weights_bytes(LLAMA2, PRECISIONS["bf16"]) == 2 * 6738415616
    outputs = 32 * (3 * 4096 + 4096 + 2 * 11008 + 4096)
    for name in ("int8", "int8-wo"):
        assert weights_bytes(LLAMA2, PRECISIONS[name]) == LINEAR + 2 * outputs + 2 * REST
    # 4.5 bits a value: half a byte, and two bytes for every 32.
    assert weights_bytes(LLAMA2, PRECISIONS["int4"]) == LINEAR * 9 // 16 + 2 * REST


def test_a_block_of_int4_that_is_not_full_has_its_scale_too():
    weight = Weight("layers.0.o.weight", "projection", (Part("o", (3, 33)),))
    assert weight_bytes(weight, PRECISIONS["int4"]) == 50 + 2 * 3 * 2
    assert weight_bytes(weight, PRECISIONS["int8"]) == 99 + 2 * 3


def test_blocks_and_dense_modules_count_as_they_are_stored():
    spec = preset_of_size("135m").spec  # 576 inputs: nine blocks of 64
    for block, blocks in ((32, 18), (64, 9), (128, 9)):
        precision = Precision(compute="fp32", linear="int4", block=block)
        weight = next(w for w in weights_of(spec) if w.name == "layers.3.qkv.weight")
        assert weight_bytes(weight, precision) == 576 * 960 // 2 + 4 * blocks * 960
    few, down = PRECISIONS["int8-wo"], frozenset({"layers.3.down"})
    more = 1536 * 576 - 2 * 576  # a byte more for each value, no scales
    assert weights_bytes(spec, few, down) - weights_bytes(spec, few) == more
    read, dense = (bytes_per_decode_step(spec, few, 9, 1, d) for d in (frozenset(), down))
    assert dense - read == more


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("compute", ["fp16", "fp32"])
def test_int4_in_a_mixture_is_stored_as_predicted(block, compute):
    spec, precision = SPECS["biased"], Precision(compute=compute, linear="int4", block=block)
    dense = frozenset({"layers.0.down", "layers.1.qkv"})
    places = layout_of(spec, precision, dense).places
    stored = sum(place.length for name, place in places.items() if not name.startswith("rope"))
    assert stored == weights_bytes(spec, precision, dense)


def test_the_cache_of_llama_2_7b():
    assert cache_bytes(LLAMA2, FP16, 1, 1) == 524288
    assert cache_bytes(LLAMA2, PRECISIONS["int4"], 1, 1) == 524288  # it is not quantized
    assert cache_bytes(LLAMA2, FP16, 2048, 3) == 3 * 2**30


def test_a_decode_step_of_llama_2_7b():
    read = 2 * (6738415616 - 32000 * 4096 + 4096) + 512 * 524288
    assert bytes_per_decode_step(LLAMA2, FP16, 512, 1) == read
    work = step_work(LLAMA2, FP16, 1, 512, 1)
    assert work.read_bytes == read
    assert work.linear_flops == 2 * LINEAR
    assert work.other_flops == 4 * 32 * 4096 * 512 + 2 * 32000 * 4096
    assert work.flops == work.linear_flops + work.other_flops


def test_a_prefill_reads_the_weights_once_for_each_step():
    weights = 2 * (6738415616 - 32000 * 4096)
    whole = prefill_work(LLAMA2, FP16, 1000, 1000, 1)
    assert whole.read_bytes == weights + 2 * 4096 * 1000 + 1000 * 524288
    seen = 1000 * 1001 // 2  # token i sees i positions
    assert whole.other_flops == 4 * 32 * 4096 * seen + 2 * 32000 * 4096
    cut = prefill_work(LLAMA2, FP16, 1000, 400, 1)
    assert cut.read_bytes == 3 * weights + 2 * 4096 * 1000 + (400 + 800 + 1000) * 524288
    assert cut.linear_flops == whole.linear_flops == 2 * LINEAR * 1000
    assert cut.other_flops - whole.other_flops == 2 * (2 * 32000 * 4096)  # logits of two more steps


def test_activations_of_llama_2_7b_are_those_of_its_logits():
    tokens, logits, mask = 512, 32000 * (2 + 4), 2048
    assert activation_bytes(LLAMA2, FP16, tokens, 2048, 1) == tokens * (logits + mask)


def test_biases_and_norms_of_heads_are_weights_of_a_step():
    spec = preset_named("qwen2.5-7b").spec
    biases = 28 * (3584 + 2 * 512)
    assert weights_bytes(spec, FP16) == 2 * 7615616512
    assert (
        bytes_per_decode_step(spec, FP16, 9, 1)
        - bytes_per_decode_step(replace(spec, qkv_bias=False), FP16, 9, 1)
        == 2 * biases
    )
    normed = preset_named("qwen3-8b").spec
    norms = 36 * 2 * 128
    assert weights_bytes(normed, FP16) - weights_bytes(replace(normed, qk_norm=False), FP16) == (
        2 * norms
    )
    assert cache_bytes(normed, FP16, 1, 1) == 2 * 36 * 8 * 128 * 2


def test_a_step_reads_the_window_alone_and_an_engine_that_masks_all():
    spec = preset_named("mistral-7b-v0.1").spec
    plain = replace(spec, window=None, windowed=())
    assert bytes_per_decode_step(spec, FP16, 4096, 1) == bytes_per_decode_step(plain, FP16, 4096, 1)
    read = bytes_per_decode_step(spec, FP16, 10000, 1)
    assert read == bytes_per_decode_step(plain, FP16, 4096, 1)
    whole = bytes_where_masked(spec, FP16, 10000, 1)
    assert whole == bytes_per_decode_step(plain, FP16, 10000, 1)
    assert cache_bytes(spec, FP16, 10000, 1) == cache_bytes(plain, FP16, 10000, 1)


@settings(max_examples=100, deadline=None)
@given(
    window=st.integers(1, 40),
    windowed=st.sets(st.integers(0, 2), min_size=1),
    filled=st.integers(1, 60),
    data=st.data(),
)
def test_what_is_seen_through_windows_is_what_their_masks_leave(window, windowed, filled, data):
    new = data.draw(st.integers(1, filled))
    spec = replace(TINY, layers=3, window=window, windowed=tuple(sorted(windowed)))
    pairs, slots = 0, 0
    for layer in range(3):
        back = window if layer in windowed else filled
        seen = [range(max(0, at + 1 - back), at + 1) for at in range(filled - new, filled)]
        pairs += sum(map(len, seen))
        slots += len({slot for one in seen for slot in one})
    work = step_work(spec, FP16, new, filled, 1)
    assert work.other_flops == 4 * spec.q_dim * pairs + 2 * spec.vocab * spec.dim
    assert seen_cache_bytes(spec, FP16, new, filled, 1) == 2 * 2 * spec.kv_dim * slots


def test_a_window_of_some_layers_has_a_mask_of_its_own():
    tokens, capacity = 64, 96
    for windowed, masks in (((), 1), ((0, 1), 1), ((1,), 2)):
        spec = replace(TINY, window=7 if windowed else None, windowed=windowed)
        values = activation_bytes(spec, FP16, tokens, 0, 1)
        whole = activation_bytes(spec, FP16, tokens, capacity, 1)
        assert whole - values == masks * tokens * capacity


def test_the_tables_of_rope_are_of_the_values_that_turn():
    spec = replace(TINY, rotary_dim=6)
    assert rope_table_bytes(spec, FP16, 96) == 2 * 96 * 6


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("spec", KIN_SPECS.values(), ids=KIN_SPECS)
def test_what_is_stored_of_the_kin_is_what_an_export_writes(spec, precision):
    layout = layout_of(spec, precision, positions=96)
    overhead = layout.file_bytes - stored_bytes(spec, precision, 96)
    assert 0 < overhead < 200 * len(layout.places) + 4096


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_what_is_stored_is_what_an_export_writes(preset, precision):
    spec = preset.spec
    layout = layout_of(spec, precision, positions=2048)
    overhead = layout.file_bytes - stored_bytes(spec, precision, 2048)
    assert 0 < overhead < 200 * len(layout.places) + 4096
    assert rope_table_bytes(spec, precision, 2048) < layout.file_bytes / 10


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_linear_parameters_are_those_of_the_projections(spec):
    projections = (w for w in weights_of(spec) if w.kind == "projection")
    assert linear_parameters(spec) == sum(math.prod(weight.shape) for weight in projections)


@settings(max_examples=50, deadline=None)
@given(spec=specs(), filled=st.integers(1, 64), rows=st.integers(1, 8))
def test_more_positions_rows_or_bits_are_more_bytes(spec, filled, rows):
    for precision in PRECISIONS.values():
        read = bytes_per_decode_step(spec, precision, filled, rows)
        assert read < bytes_per_decode_step(spec, precision, filled + 1, rows)
        assert read < bytes_per_decode_step(spec, precision, filled, rows + 1)
        assert bytes_per_step(spec, precision, 1, filled, rows) == read
    assert weights_bytes(spec, FP32) == 2 * weights_bytes(spec, FP16) == 4 * spec.parameters
    eight = weights_bytes(spec, PRECISIONS["int8"])
    assert eight == weights_bytes(spec, PRECISIONS["int8-wo"])


@settings(max_examples=50, deadline=None)
@given(spec=specs(), prompt=st.integers(1, 64), per_step=st.integers(1, 64))
def test_cutting_a_prefill_changes_its_reads_and_its_logits_alone(spec, prompt, per_step):
    whole = prefill_work(spec, FP16, prompt, prompt, 1)
    cut = prefill_work(spec, FP16, prompt, per_step, 1)
    steps = -(-prompt // per_step)
    assert cut.linear_flops == whole.linear_flops
    assert cut.other_flops - whole.other_flops == (steps - 1) * 2 * spec.vocab * spec.dim
    assert cut.read_bytes >= whole.read_bytes
