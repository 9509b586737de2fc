"""The arithmetic of symmetric quantization: scales from maxima, values from scales, int4 packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from llx.errors import BadInput
from llx.llama.quantized import FP8, FP8_MOST, INT4_LEAST, INT4_MOST, MOST, fp8, rounded

# A block's largest magnitude becomes one of these many steps, whichever errs least: 7 clips
# nothing, 8 is right where the largest is negative, and more clips it for the others' sake.
INT4_STEPS = (7.0, 7.5, 8.0, 8.5, 9.0)
FP8_ROOM = 2.0  # what a channel of E4M3 may grow by before it saturates
FP8_SHIFTS = 16  # scales that are tried between two powers of two


@dataclass(frozen=True)
class Quantized:
    """A projection's weight as it is stored, by whichever method it was rounded.

    `values` [in, out]: int8, within ±127 or, for int4, -8…7 and not packed; or E4M3. `scales`:
    positive, in the dtype that the graph computes in, [out], or [blocks, out] for int4.
    """

    values: torch.Tensor
    scales: torch.Tensor

    def dequantized(self, block: int | None) -> torch.Tensor:
        """What the values stand for, [in, out] in fp32; `block`: int4's, None for the others."""
        scales = self.scales.float()
        if block:
            scales = scales.repeat_interleave(block, 0)[: len(self.values)]
        return self.values.float().mul_(scales)


Ready = Callable[[str], Quantized | None]
"""What has the values of a module, such as `layers.3.down`, ready; None: round it to nearest.

It is asked once for each module that is quantized, in the order of the weights file (layer by
layer; qkv, o, gate_up, down), so it may make a layer's values when it is asked for them.
"""


def most_of(values: torch.dtype) -> float:
    """What the largest magnitude becomes in int8 or in E4M3."""
    return FP8_MOST if values == FP8 else MOST


def scales_from(
    maxima: torch.Tensor, dtype: torch.dtype, name: str, values: torch.dtype = torch.int8
) -> torch.Tensor:
    """The scales by which the largest magnitudes become the largest of int8 or E4M3 `values`.

    They are in the dtype that they are stored in, rounded up, so that the largest is not clipped.
    Where all is zero the smallest normal number stands in: any positive scale is right for a zero,
    and runtimes refuse others. Raises `BadInput` where a maximum is not finite or its scale is
    beyond the dtype; `name` says whose.
    """
    exact = maxima.float() / most_of(values)
    scales = exact.to(dtype)
    above = torch.nextafter(scales, torch.full_like(scales, torch.inf))
    scales = torch.where(scales.float() < exact, above, scales)
    _require_finite(scales, maxima, name)
    return scales.where(maxima > 0, torch.finfo(dtype).smallest_normal)


def quantize_(
    values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.int8
) -> torch.Tensor:
    """Values over scales, half to even, within ±127 of int8 or ±448 of E4M3; overwritten.

    The scales are those that are stored, so that no rounding of theirs is left out.
    """
    steps = values.div_(scales.float())
    return fp8(steps) if dtype == FP8 else steps.round_().clamp_(-MOST, MOST).to(dtype)


def int8_nearest(weight: torch.Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out], in fp32, rounded to int8 with a scale for each output channel.

    Raises `BadInput` as `scales_from` does.
    """
    scales = scales_from(weight.abs().amax(0), dtype, name)
    return Quantized(quantize_(weight.clone(), scales), scales)


def fp8_nearest(weight: torch.Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out], in fp32, rounded to E4M3 with a scale for each output channel.

    Raises `BadInput` as `scales_from` does.
    """
    scales = scales_from(weight.abs().amax(0), dtype, name, FP8)
    return Quantized(quantize_(weight.clone(), scales, FP8), scales)


def fp8_scales(
    weight: torch.Tensor, squares: torch.Tensor, dtype: torch.dtype, name: str
) -> torch.Tensor:
    """Scales [out] of a weight [in, out], in fp32, that is to be E4M3 with room to grow.

    Of an octave of them each channel has the one that errs least, its squares weighed by those of
    the inputs, [in]: a step is a sixteenth of a value or an eighth, by where it lies. The largest
    becomes 224 at the most, since what is rounded later may grow. Raises `BadInput` as
    `scales_from` does.
    """
    least = scales_from(FP8_ROOM * weight.abs().amax(0), dtype, name, FP8)

    def tried() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for shift in range(FP8_SHIFTS):
            scales = (least.float() * 2 ** (shift / FP8_SHIFTS)).to(dtype)
            values = quantize_(weight.clone(), scales, FP8).float()
            yield scales, squares @ values.mul_(scales.float()).sub_(weight).square_()

    return _least_error(tried())


def _least_error(tried: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Of scales and what they err by, both of one shape, those that err least; the first of two."""
    candidates = iter(tried)
    chosen, best = next(candidates)
    for scales, error in candidates:
        chosen = scales.where(error < best, chosen)
        best = torch.minimum(best, error)
    return chosen


def int8_rows(rows: torch.Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """Rows [n, dim] of a table, in fp32, rounded to int8 with a scale for each: scales [n].

    Raises `BadInput` as `scales_from` does.
    """
    scales = scales_from(rows.abs().amax(1), dtype, name)
    return Quantized(quantize_(rows.clone(), scales.unsqueeze(1)), scales)


def rounded_rows(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows [n, dim] of a table as int8 has them, in fp32."""
    found = int8_rows(rows, dtype, "the vocabulary's table")
    return found.values.float().mul_(found.scales.float().unsqueeze(1))


def int4_scales(
    blocks: torch.Tensor, dtype: torch.dtype, name: str, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Scales [..., out] of blocks [..., block, out], in the dtype that they are stored in.

    Of a few, each block has the one whose values err least in the sum of squares. `importance`:
    what each counts for in it, to be broadcast. Raises `BadInput` as `scales_from` does.
    """
    maxima = blocks.abs().amax(-2)
    least = torch.finfo(dtype).smallest_normal

    def tried() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for steps in INT4_STEPS:
            scales = (maxima / steps).to(dtype).clamp_min(least)
            _require_finite(scales, maxima, name)
            wide = scales.float().unsqueeze(-2)
            values = (blocks / wide).round_().clamp_(INT4_LEAST, INT4_MOST)
            squares = values.mul_(wide).sub_(blocks).square_()
            yield scales, (squares if importance is None else squares.mul_(importance)).sum(-2)

    return _least_error(tried())


def int4_nearest(weight: torch.Tensor, block: int, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out], in fp32, rounded to int4 in blocks along its inputs.

    Raises `BadInput` as `scales_from` does.
    """
    inputs, outputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -inputs % block))
    blocks = padded.reshape(-1, block, outputs)
    scales = int4_scales(blocks, dtype, name)
    values = (blocks / scales.float().unsqueeze(1)).round_().clamp_(INT4_LEAST, INT4_MOST)
    return Quantized(values.reshape(-1, outputs)[:inputs].to(torch.int8), scales)


def packed(values: torch.Tensor) -> torch.Tensor:
    """Int4 values two to a byte, as ONNX packs them: in order, the first in the low half.

    int8 of any shape → uint8 [ceil(n / 2)]; an odd one out is followed by a zero.
    """
    flat = torch.nn.functional.pad(values.flatten(), (0, values.numel() % 2)).view(torch.uint8)
    return (flat[0::2] & 0xF) | (flat[1::2] << 4)


def _require_finite(scales: torch.Tensor, maxima: torch.Tensor, name: str) -> None:
    if not scales.isfinite().all():
        raise BadInput(
            f"{name} reaches {float(maxima.max()):.1e}, for which {scales.dtype} has no scale",
            "export with --precision fp32 if the weights are what they should be",
        )


def rounded_inputs(inputs: torch.Tensor, most: float, weight: Quantized) -> torch.Tensor:
    """Inputs as a layer sees them that rounds them as its weight is: `most` was their largest."""
    values, dtype = weight.values.dtype, weight.scales.dtype
    scale = scales_from(torch.tensor([most]), dtype, "an input", values).float()
    return rounded(inputs / scale, values).mul_(scale)
