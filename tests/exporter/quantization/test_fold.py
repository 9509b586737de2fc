"""Folds: they change no result, even out what they should, and end where fp16 does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llx.exporter.load import embedded, llama_from_source, projection
from llx.exporter.quantization.fold import (
    FP8_INPUT_MOST,
    GROWTH_MOST,
    INPUT_MOST,
    FoldedSource,
    awq,
    levelled,
    smoothquant,
)
from llx.exporter.quantization.observe import InputStatistics, observe
from llx.llama.model import empty_cache
from tests.checkpoints import KIN_SPECS, SPECS, TINY, MemorySource, dice, random_tensors, torch_dice

TOKENS = dice(0).integers(0, TINY.vocab, (2, 20), dtype=np.int64)


def logits(source):
    model = llama_from_source(source)
    tokens = torch.from_numpy(TOKENS)
    positions = torch.arange(20).repeat(2, 1)
    cache = empty_cache(source.spec, 2, 24, torch.float32)
    with torch.inference_mode():
        return model(tokens, positions, positions, cache)[0]


def seen_of(source):
    found = {}
    hidden = embedded(source, torch.from_numpy(TOKENS))
    observe(source, hidden, lambda layer, statistics: found.update(statistics))
    return found


def random_folds(spec):
    """Factors of any size, but for o those that its query heads can share."""
    generator = torch_dice(1)
    folds = {}
    for module in seen_of(MemorySource(spec)):
        channels = len(projection(MemorySource(spec), module))
        factors = torch.exp(torch.randn(channels, generator=generator))
        if module.endswith(".o"):
            heads = factors.view(spec.kv_heads, -1, spec.head_dim)
            factors = heads[:, :1].expand_as(heads).reshape(-1)
        folds[module] = factors
    return folds


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_any_fold_leaves_the_model_as_it_is_and_divides_every_input(spec):
    source, folds = MemorySource(spec), random_folds(spec)
    folded = FoldedSource(source, folds)
    torch.testing.assert_close(logits(folded), logits(source), atol=3e-5, rtol=1e-4)
    before, after = seen_of(source), seen_of(folded)
    for module, fold in folds.items():
        wanted = before[module].maxima / fold
        torch.testing.assert_close(after[module].maxima, wanted, atol=1e-4, rtol=1e-4)


def test_blocks_of_a_folded_tensor_are_those_of_the_whole():
    folded = FoldedSource(MemorySource(TINY), random_folds(TINY))
    for name in folded.tensors:
        whole = folded.read(name)
        torch.testing.assert_close(folded.read(name, slice(3, 9)), whole[3:9])
        if whole.dim() == 2:
            part = folded.read(name, slice(2, 5), slice(4, 8))
            torch.testing.assert_close(part, whole[2:5, 4:8])


def test_the_checkpoint_itself_is_never_written_to():
    tensors = random_tensors(TINY)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    logits(FoldedSource(MemorySource(TINY, tensors), random_folds(TINY)))
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_smoothing_brings_every_layer_to_one_largest_input(spec):
    source = MemorySource(spec)
    for module, seen in seen_of(source).items():
        factors = smoothquant(spec, module, projection(source, module), seen)
        assert float((seen.maxima / factors).max()) == pytest.approx(INPUT_MOST, rel=1e-4)


def test_smoothing_takes_most_of_an_outlier_and_the_weights_take_it_over():
    weight = torch.randn(8, 6, generator=torch_dice(0))
    seen = InputStatistics(torch.ones(8), None)
    seen.maxima[3] = 1e4
    factors = smoothquant(TINY, "layers.0.down", weight, seen)
    after = seen.maxima / factors
    assert after.max() < 4 * after.median()
    assert torch.isfinite(factors).all()
    assert (factors > 0).all()


def test_the_smoothing_of_o_is_shared_by_the_query_heads_of_a_kv_head():
    width = TINY.heads * TINY.head_dim
    seen = InputStatistics(torch.rand(width, generator=torch_dice(0)) + 1, None)
    weight = torch.randn(width, 12, generator=torch_dice(1))
    heads = smoothquant(TINY, "layers.0.o", weight, seen).view(TINY.kv_heads, -1, TINY.head_dim)
    assert heads.shape[1] > 1
    # Not equal to the bit: the power of the last of 60 values is not taken by the vector's kernel.
    torch.testing.assert_close(heads, heads[:, :1].expand_as(heads), atol=0, rtol=1e-6)


def test_channels_that_are_always_zero_are_survived():
    weight = torch.randn(32, 6, generator=torch_dice(0))
    inputs = torch.randn(50, 32, generator=torch_dice(1))
    inputs[:, 5] = 0
    weight[7] = 0
    seen = InputStatistics.of(32)
    seen.add("layers.0.down", inputs)
    for factors in (
        smoothquant(TINY, "layers.0.down", weight, seen),
        awq(TINY, "layers.0.down", weight, seen, 16),
    ):
        assert torch.isfinite(factors).all()
        assert (factors > 0).all()
    empty = InputStatistics.of(32)
    empty.add("layers.0.down", torch.zeros(4, 32))
    assert torch.isfinite(smoothquant(TINY, "layers.0.down", weight, empty)).all()
    assert torch.isfinite(awq(TINY, "layers.0.down", weight, empty, 16)).all()


def test_awq_gives_inputs_of_weight_a_finer_step_and_the_product_errs_less():
    from llx.exporter.quantize import int4_nearest

    generator = torch_dice(0)
    weight = torch.randn(64, 32, generator=generator)
    inputs = torch.randn(400, 64, generator=generator)
    inputs[:, ::9] *= 20
    seen = InputStatistics.of(64)
    seen.add("layers.0.down", inputs)
    factors = awq(TINY, "layers.0.down", weight, seen, 32)
    assert factors[::9].min() > factors[1::9].max()

    def error(fold):
        rounded = int4_nearest(weight * fold[:, None], 32, torch.float32, "w").dequantized(32)
        return float((inputs @ (rounded / fold[:, None] - weight)).square().sum())

    assert error(factors) < 0.7 * error(torch.ones(64))


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_levelling_brings_every_layer_to_one_largest_input_and_changes_no_result(spec):
    source = MemorySource(spec)
    folds = {m: levelled(projection(source, m), seen) for m, seen in seen_of(source).items()}
    folded = FoldedSource(source, folds)
    for seen in seen_of(folded).values():
        assert float(seen.maxima.max()) == pytest.approx(FP8_INPUT_MOST, rel=1e-4)
    torch.testing.assert_close(logits(folded), logits(source), atol=3e-5, rtol=1e-4)


def test_an_outlier_beyond_what_a_weight_may_grow_by_is_left_to_the_scale():
    seen = InputStatistics.of(4)
    weight = torch.ones(4, 3)
    assert levelled(weight, seen).tolist() == [1.0] * 4  # of inputs that are all zero
    seen.add("layers.0.down", torch.full((8, 4), 1e5))
    assert levelled(weight, seen).tolist() == [GROWTH_MOST] * 4
    assert levelled(0 * weight, seen).tolist() == [1.0] * 4
