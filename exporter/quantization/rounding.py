"""Rounding that makes good for itself: GPTQ, to int8 or E4M3 per output channel, int4 in blocks.

GPTQ (Frantar et al., 2022, arXiv:2210.17323) rounds the rows of a weight [in, out] one after
another, and lets those that are still to come take over each one's error: what counts is the error
of the product, not of the weight. Which inputs go together it learns from their Gram matrix. Rows
of the largest inputs have their turn first, while there are many that can take over ("act-order" in
the authors' code).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from llx.exporter.quantize import Quantized, fp8_scales, int4_scales, scales_from
from llx.llama.quantized import INT4_LEAST, INT4_MOST, MOST, fp8

# Added to the Gram matrix' diagonal, as a share of its mean: keeps directions that the calibration
# hardly saw from deciding anything. The paper's 0.01 costs SmolLM2's int4 5 to 12 % more KLD, by
# kind of text, and int8 nothing (reports/LOG.md).
DAMPING = 0.1
CHUNK = 128  # rows between two updates of all that follow: a matter of speed alone

ScalesOf = Callable[[int], Tensor]
"""Scales [out] of a row of the weight, in fp32."""
Rounding = Callable[[Tensor], Tensor]
"""Rounds a row over its scales, [out] in fp32, to what its values can be; it may overwrite it."""


def int8_rounded(weight: Tensor, gram: Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out] in int8 with a scale for each output channel.

    `gram`: the sum of x·xᵀ over the inputs x, [in, in]; it is overwritten, as is the weight.
    Raises `BadInput` where a scale is beyond `dtype`; `name` says whose.
    """
    scales = scales_from(weight.abs().amax(0), dtype, name)
    values = _gptq(weight, gram, lambda row: scales.float(), _integers(-MOST, MOST))
    return Quantized(values.to(torch.int8), scales)


def fp8_rounded(weight: Tensor, gram: Tensor, dtype: torch.dtype, name: str) -> Quantized:
    """A weight [in, out] in E4M3 with a scale for each output channel; as `int8_rounded`."""
    scales = fp8_scales(weight, gram.diagonal(), dtype, name)
    values = _gptq(weight, gram, lambda row: scales.float(), lambda row: fp8(row).float())
    return Quantized(fp8(values), scales)


def int4_rounded(
    weight: Tensor, gram: Tensor, block: int, dtype: torch.dtype, name: str
) -> Quantized:
    """A weight [in, out] in int4, `block` rows to a scale; as `int8_rounded` otherwise.

    Scales are those that suit the weight as it was, each row by the size of its inputs: in
    act-order a block's rows have no turn of their own.
    """
    ragged, squares = -len(weight) % block, gram.diagonal()
    blocks = pad(weight, (0, 0, 0, ragged)).reshape(-1, block, weight.shape[1])
    scales = int4_scales(blocks, dtype, name, pad(squares, (0, ragged)).reshape(-1, block, 1))
    integers = _integers(INT4_LEAST, INT4_MOST)
    values = _gptq(weight, gram, lambda row: scales[row // block].float(), integers)
    return Quantized(values.to(torch.int8), scales)


def _integers(least: int, most: int) -> Rounding:
    return lambda row: row.round_().clamp_(least, most)


def _gptq(weight: Tensor, gram: Tensor, scales_of: ScalesOf, rounded: Rounding) -> Tensor:
    """Values [in, out] in fp32 for a weight, which is left as what the errors made of it."""
    inputs = len(weight)
    order = _order_of(gram)
    for matrix in (weight, gram, gram.T):
        _reorder_rows(matrix, order)
    factor = _error_factor(gram)
    values = torch.empty(weight.shape)
    for start in range(0, inputs, CHUNK):
        end = min(start + CHUNK, inputs)
        errors = torch.empty(end - start, weight.shape[1])
        for at in range(start, end):
            row = int(order[at])
            scales = scales_of(row)
            steps = values[row] = rounded(weight[at] / scales)
            error = errors[at - start] = (weight[at] - steps * scales) / factor[at, at]
            weight[at + 1 : end].addr_(factor[at, at + 1 : end], error, alpha=-1)
        weight[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return values


def _order_of(gram: Tensor) -> Tensor:
    """Rows by the size of their inputs, the largest first."""
    return gram.diagonal().argsort(descending=True, stable=True)


def _reorder_rows(matrix: Tensor, order: Tensor) -> None:
    """Put rows into another order, in place: a copy of a few columns at a time."""
    for part in torch.split(matrix, CHUNK, 1):
        part.copy_(part[order])


def _error_factor(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped Gram matrix' inverse, [in, in], in its memory.

    An input that is always zero has a diagonal of one: its weight errs without a cost.
    """
    diagonal = gram.diagonal()
    damping = DAMPING * float(diagonal.mean())
    diagonal[diagonal == 0] = 1.0
    diagonal.add_(damping)
    lower = torch.linalg.cholesky(gram, out=gram)
    inverse = torch.cholesky_inverse(lower)
    torch.linalg.cholesky(inverse, upper=True, out=gram)
    return gram
