"""GPTQ: the product errs less than with rounding to nearest, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.quantization import rounding
from llx.exporter.quantization.rounding import fp8_rounded, int4_rounded, int8_rounded
from llx.exporter.quantize import fp8_nearest, fp8_scales, int4_nearest, int8_nearest, quantize_
from llx.llama.quantized import FP8
from tests.checkpoints import torch_dice

HALF = torch.float16


def layer(inputs=200, outputs=24, rows=1000, seed=0):
    """A weight [in, out] and inputs [N, in] that go together in a few directions."""
    generator = torch_dice(seed)
    weight = torch.randn(inputs, outputs, generator=generator) / inputs**0.5
    few = torch.randn(rows, 20, generator=generator) @ torch.randn(20, inputs, generator=generator)
    return weight, few + 0.1 * torch.randn(rows, inputs, generator=generator)


def error(inputs, weight, quantized, block=None):
    return float((inputs @ (quantized.dequantized(block) - weight)).square().mean())


def test_int8_errs_less_in_the_product_than_rounding_to_nearest():
    weight, x = layer()
    found = int8_rounded(weight.clone(), x.T @ x, HALF, "w")
    nearest = int8_nearest(weight, HALF, "w")
    assert torch.equal(found.scales, nearest.scales)
    assert found.values.dtype == torch.int8
    assert int(found.values.min()) >= -127
    assert error(x, weight, found) < 0.2 * error(x, weight, nearest)


def test_fp8_errs_less_in_the_product_than_rounding_to_nearest():
    weight, x = layer()
    found = fp8_rounded(weight.clone(), x.T @ x, HALF, "w")
    nearest = fp8_nearest(weight, HALF, "w")
    assert found.values.dtype == nearest.values.dtype == FP8
    assert found.values.float().isfinite().all()
    assert error(x, weight, found) < 0.2 * error(x, weight, nearest)


def test_a_channel_of_e4m3_has_the_scale_that_errs_least_and_room_to_grow():
    weight, x = layer()
    weight[:, 0] = 17 / 448 * torch.sign(weight[:, 0])  # just above a power of two, of its largest
    scales = fp8_scales(weight, x.square().mean(0), HALF, "w")
    values = quantize_(weight.clone(), scales, FP8).float()
    assert (values.abs().amax(0) <= 224).all()
    assert (values.abs().amax(0) >= 104).all()
    ours = (values * scales.float() - weight).square().sum(0)
    nearest = fp8_nearest(weight, HALF, "w").dequantized(None)
    theirs = (nearest - weight).square().sum(0)
    assert ours.sum() < theirs.sum()


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_errs_less_in_the_product_than_rounding_to_nearest(block):
    weight, x = layer(256)
    found = int4_rounded(weight.clone(), x.T @ x, block, HALF, "w")
    nearest = int4_nearest(weight, block, HALF, "w")
    assert found.values.shape == weight.shape
    assert found.scales.shape == nearest.scales.shape == (256 // block, 24)
    assert (found.scales > 0).all()
    assert int(found.values.min()) >= -8
    assert int(found.values.max()) <= 7
    assert error(x, weight, found, block) < 0.3 * error(x, weight, nearest, block)


def test_rows_of_the_largest_inputs_have_their_turn_first(monkeypatch):
    weight, x = layer(256)
    x *= torch.linspace(0.1, 4, 256)
    found = int4_rounded(weight.clone(), x.T @ x, 32, HALF, "w")
    monkeypatch.setattr(rounding, "_order_of", lambda gram: torch.arange(len(gram)))
    in_order = int4_rounded(weight.clone(), x.T @ x, 32, HALF, "w")
    assert torch.equal(found.scales, in_order.scales)
    assert error(x, weight, found, 32) < 0.8 * error(x, weight, in_order, 32)


def test_a_last_block_may_be_ragged():
    weight, x = layer(70)
    found = int4_rounded(weight.clone(), x.T @ x, 32, HALF, "w")
    assert found.scales.shape == (3, 24)
    nearest = int4_nearest(weight, 32, HALF, "w")
    assert error(x, weight, found, 32) < error(x, weight, nearest, 32)


def test_with_inputs_that_have_nothing_in_common_it_is_rounding_to_nearest():
    weight, _ = layer()
    found = int8_rounded(weight.clone(), torch.eye(200), HALF, "w")
    assert torch.equal(found.values, int8_nearest(weight, HALF, "w").values)
    found = fp8_rounded(weight.clone(), torch.eye(200), HALF, "w")
    assert torch.equal(found.values.float(), quantize_(weight.clone(), found.scales, FP8).float())


def test_inputs_that_are_always_zero_and_channels_of_zeros_are_survived():
    weight, x = layer()
    x[:, 5] = 0
    weight[:, 3] = 0
    for found, block in (
        (int8_rounded(weight.clone(), x.T @ x, HALF, "w"), None),
        (fp8_rounded(weight.clone(), x.T @ x, HALF, "w"), None),
        (int4_rounded(weight.clone(), x.T @ x, 32, HALF, "w"), 32),
    ):
        back = found.dequantized(block)
        assert torch.isfinite(back).all()
        assert not back[:, 3].any()
        torch.testing.assert_close(back[5], weight[5], atol=0.1, rtol=0)


def test_nothing_but_zeros_is_survived():
    for rounded in (int8_rounded, fp8_rounded):
        found = rounded(torch.zeros(8, 4), torch.zeros(8, 8), HALF, "w")
        assert not found.values.float().any()


def test_weights_without_a_scale_are_refused_by_name():
    weight, x = layer()
    weight[3, 4] = float("nan")
    for rounded in (int8_rounded, fp8_rounded):
        with pytest.raises(BadInput, match=r"down\.weight reaches nan"):
            rounded(weight.clone(), x.T @ x, HALF, "down.weight")
    with pytest.raises(BadInput, match=r"down\.weight reaches nan"):
        int4_rounded(weight, x.T @ x, 32, HALF, "down.weight")


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from([16, 32, 64, 128]), st.integers(0))
def test_any_shape_stays_in_range_and_near_the_weight(inputs, outputs, block, seed):
    weight, x = layer(inputs, outputs, 50, seed % 1000)
    found = int4_rounded(weight.clone(), x.T @ x, block, torch.float32, "w")
    assert found.scales.shape == (-(-inputs // block), outputs)
    assert (found.values >= -8).all()
    assert (found.values <= 7).all()
    assert torch.isfinite(found.dequantized(block)).all()
