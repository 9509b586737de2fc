"""The arithmetic of symmetric int8: scales from maxima, values from scales."""

from __future__ import annotations

import torch

from llx.errors import BadInput
from llx.llama.quantized import MOST


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
    if not scales.isfinite().all():
        raise BadInput(
            f"{name} reaches {float(maxima.max()):.1e}, for which {dtype} has no scale",
            "export with --precision fp32 if the weights are what they should be",
        )
    return scales.where(maxima > 0, torch.finfo(dtype).smallest_normal)


def quantize_(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Values over scales, half to even, within ±127; float32, written in place.

    The scales are those that are stored, so that no rounding of theirs is left out.
    """
    return values.div_(scales.float()).round_().clamp_(-MOST, MOST)
