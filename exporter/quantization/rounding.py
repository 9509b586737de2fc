"""Rounding that makes good for itself: GPTQ, to int8 or E4M3 per output channel, int4 in blocks.

GPTQ (Frantar et al., 2022, arXiv:2210.17323) rounds the rows of a weight [in, out] one after
another, and lets those that are still to come take over each one's error: what counts is the error
of the product, not of the weight. Which inputs go together it learns from their Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llx.exporter.quantize import Quantized, fp8_scales, int4_scales, scales_from
from llx.llama.quantized import INT4_LEAST, INT4_MOST, MOST, fp8

# Added to the Gram matrix' diagonal, as a share of its mean: keeps directions that the calibration
# hardly saw from deciding anything. The paper's value.
DAMPING = 0.01
# With E4M3's large steps little is lost on the text of the calibration, and others gain by more.
FP8_DAMPING = 0.1
CHUNK = 128  # rows between two updates of all that follow: a matter of speed alone

ScalesOf = Callable[[int, Tensor], Tensor]
"""Scales [out] of a row, given its index and the weight as it stands then, [in, out]."""
Rounding = Callable[[Tensor], Tensor]
"""Rounds a row over its scales, [out] in fp32, to what its values can be; it may overwrite it."""


def int8_rounded(weight: Tensor, gram: Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out] in int8 with a scale for each output channel.

    `gram`: the sum of x·xᵀ over the inputs x, [in, in]; it is overwritten, as is the weight.
    Raises `BadInput` where a scale is beyond `dtype`; `name` says whose.
    """
    scales = scales_from(weight.abs().amax(0), dtype, name)
    values = _gptq(weight, gram, lambda row, rest: scales.float(), _integers(-MOST, MOST))
    return Quantized(values.to(torch.int8), scales)


def fp8_rounded(weight: Tensor, gram: Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out] in E4M3 with a scale for each output channel; as `int8_rounded`."""
    scales = fp8_scales(weight, gram.diagonal(), dtype, name)
    values = _gptq(
        weight, gram, lambda row, rest: scales.float(), lambda row: fp8(row).float(), FP8_DAMPING
    )
    return Quantized(fp8(values), scales)


def int4_rounded(
    weight: Tensor, gram: Tensor, block: int, dtype: torch.dtype, name: str
) -> Quantized:
    """A weight [in, out] in int4, `block` rows to a scale; as `int8_rounded` otherwise.

    A block's scales are chosen when its turn has come, for what the weight is by then.
    """
    scales: list[Tensor] = []

    def scales_of(row: int, rest: Tensor) -> Tensor:
        if row % block == 0:
            scales.append(int4_scales(rest[row : row + block], dtype, name))
        return scales[-1].float()

    values = _gptq(weight, gram, scales_of, _integers(INT4_LEAST, INT4_MOST))
    return Quantized(values.to(torch.int8), torch.stack(scales))


def _integers(least: int, most: int) -> Rounding:
    return lambda row: row.round_().clamp_(least, most)


def _gptq(
    weight: Tensor, gram: Tensor, scales_of: ScalesOf, rounded: Rounding, damped: float = DAMPING
) -> Tensor:
    """Values [in, out] in fp32 for a weight, which is left as what the errors made of it."""
    inputs = len(weight)
    factor = _error_factor(gram, damped)
    values = torch.empty(weight.shape)
    for start in range(0, inputs, CHUNK):
        end = min(start + CHUNK, inputs)
        errors = torch.empty(end - start, weight.shape[1])
        for row in range(start, end):
            scales = scales_of(row, weight)
            steps = values[row] = rounded(weight[row] / scales)
            error = errors[row - start] = (weight[row] - steps * scales) / factor[row, row]
            weight[row + 1 : end].addr_(factor[row, row + 1 : end], error, alpha=-1)
        # A block of int4 that goes on beyond this chunk has its scales already.
        weight[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return values


def _error_factor(gram: Tensor, damped: float) -> Tensor:
    """The upper Cholesky factor of the damped Gram matrix' inverse, [in, in], in its memory.

    An input that is always zero has a diagonal of one: its weight errs without a cost.
    """
    diagonal = gram.diagonal()
    damping = damped * float(diagonal.mean())
    diagonal[diagonal == 0] = 1.0
    diagonal.add_(damping)
    lower = torch.linalg.cholesky(gram, out=gram)
    inverse = torch.cholesky_inverse(lower)
    torch.linalg.cholesky(inverse, upper=True, out=gram)
    return gram
