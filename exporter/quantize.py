"""The arithmetic of symmetric quantization: scales from maxima, values from scales, int4 packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from llx.errors import BadInput
from llx.llama.quantized import INT4_LEAST, INT4_MOST, MOST

# A block's largest magnitude becomes one of these many steps, whichever errs least: 7 clips
# nothing, 8 is right where the largest is negative, and more clips it for the others' sake.
INT4_STEPS = (7.0, 7.5, 8.0, 8.5, 9.0)


@dataclass(frozen=True)
class Quantized:
    """A projection's weight as it is stored, by whichever method it was rounded.

    `values`: int8 [in, out], within ±127 or, for int4, -8…7 and not packed. `scales`: positive, in
    the dtype that the graph computes in, [out], or [blocks, out] for int4.
    """

    values: torch.Tensor
    scales: torch.Tensor


Ready = Callable[[str], Quantized | None]
"""What has the values of a module, such as `layers.3.down`, ready; None: round it to nearest.

It is asked once for each module that is quantized, in the order of the weights file (layer by
layer; qkv, o, gate_up, down), so it may make a layer's values when it is asked for them.
"""


def scales_from(maxima: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The scales by which the largest magnitudes become 127, in the dtype that they are stored in.

    Rounded up, so that the largest is not clipped. Where all is zero the smallest normal number
    stands in: any positive scale is right for a zero, and runtimes refuse others. Raises
    `BadInput` where a maximum is not finite or its scale is beyond the dtype; `name` says whose.
    """
    exact = maxima.float() / MOST
    scales = exact.to(dtype)
    above = torch.nextafter(scales, torch.full_like(scales, torch.inf))
    scales = torch.where(scales.float() < exact, above, scales)
    _require_finite(scales, maxima, name)
    return scales.where(maxima > 0, torch.finfo(dtype).smallest_normal)


def quantize_(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Values over scales, half to even, within ±127; float32, written in place.

    The scales are those that are stored, so that no rounding of theirs is left out.
    """
    return values.div_(scales.float()).round_().clamp_(-MOST, MOST)


def int4_nearest(weight: torch.Tensor, block: int, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [out, in], in fp32, rounded to int4 in blocks along its inputs.

    Each block has the scale, of a few, whose values err least in the sum of squares. Raises
    `BadInput` as `scales_from` does.
    """
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -inputs % block))
    blocks = padded.view(outputs, -1, block)
    maxima = blocks.abs().amax(2, keepdim=True)
    least = torch.finfo(dtype).smallest_normal
    best: torch.Tensor | None = None
    for steps in INT4_STEPS:
        scales = (maxima / steps).to(dtype).clamp_min(least)
        _require_finite(scales, maxima, name)
        values = (blocks / scales.float()).round_().clamp_(INT4_LEAST, INT4_MOST)
        error = (values * scales.float()).sub_(blocks).square_().sum(2, keepdim=True)
        if best is None:
            best, chosen, found = error, scales, values
            continue
        better = error < best
        best, chosen = error.where(better, best), scales.where(better, chosen)
        found = values.where(better, found)
    values = found.view(outputs, -1)[:, :inputs].T.to(torch.int8)
    return Quantized(values.contiguous(), chosen.squeeze(2).T.contiguous())


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
