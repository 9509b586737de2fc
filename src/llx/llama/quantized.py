"""Linear layers in 8 or 4 bits, in eager PyTorch: what a graph's Q/DQ means, and its reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llx.llama import ops
from llx.llama.model import Linear, Llama, Table
from llx.precision import Precision

MOST = 127  # symmetric: -128 has no counterpart, and no weight is it
INT4_LEAST, INT4_MOST = -8, 7
FP8 = torch.float8_e4m3fn
FP8_MOST = float(torch.finfo(FP8).max)  # 448


class QuantizedLinear(nn.Module):
    """A projection whose stored weight is [in, out], with its scales: `llx.graphs.linear` in words.

    Uninitialised: load it. The weight is dequantized at every step, so it is right and slow.
    """

    def __init__(self, dense: Linear, precision: Precision) -> None:
        super().__init__()
        self.shape, dtype = tuple(dense.weight.shape), dense.weight.dtype
        inputs, outputs = self.shape

        def held(*shape: int, dtype: torch.dtype = dtype) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

        self.block = precision.block_of(inputs) if precision.linear == "int4" else None
        if self.block:
            self.weight = held(*packed_shape(inputs, outputs), dtype=torch.uint8)
            self.weight_scale = held(-(-inputs // self.block), outputs)
        else:
            values = FP8 if precision.linear == "fp8" else torch.int8
            self.weight = held(inputs, outputs, dtype=values)
            self.weight_scale = held(outputs)
        self.input_scale = held() if precision.rounds_inputs else None
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] → [B, T, out]."""
        product = x @ self.dequantized() if self.input_scale is None else self._rounded(x)
        return product if self.bias is None else product + self.bias

    def dequantized(self) -> Tensor:
        """The weight [in, out], in the type of its scales."""
        if self.block is None:
            return self.weight.to(self.weight_scale.dtype) * self.weight_scale
        scales = self.weight_scale.repeat_interleave(self.block, 0)[: self.shape[0]]
        return unpacked(self.weight, self.shape) * scales

    def _rounded(self, x: Tensor) -> Tensor:
        """The product of rounded inputs, in fp32."""
        assert self.input_scale is not None
        scale = self.input_scale.float()
        inputs = rounded(x.float() / scale, self.weight.dtype) * scale
        product = inputs @ (self.weight.float() * self.weight_scale.float())
        return product.to(x.dtype)


class QuantizedTable(Table):
    """A vocabulary table of int8 [V, dim] with a scale for each row. Uninitialised: load it."""

    def __init__(self, dense: Table) -> None:
        nn.Module.__init__(self)
        shape, dtype = dense.weight.shape, dense.weight.dtype
        self.weight = nn.Parameter(torch.empty(shape, dtype=torch.int8), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(shape[0], dtype=dtype), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] → their rows [B, T, dim]."""
        return self.weight[tokens] * self.weight_scale[tokens].unsqueeze(-1)

    def logits(self, x: Tensor) -> Tensor:
        """[B, K, dim] → [B, K, V]."""
        return ops.unembed(x, self.weight * self.weight_scale.unsqueeze(-1))


def rounded(steps: Tensor, values: torch.dtype) -> Tensor:
    """Inputs over their scale as QuantizeLinear rounds them: half to even, and saturating.

    To int8, -128…127, or to E4M3, ±448; the same shape, in fp32.
    """
    if values == torch.int8:
        return steps.round().clamp(-MOST - 1, MOST)
    return fp8(steps).float()


def fp8(values: Tensor) -> Tensor:
    """Values of fp32 rounded to E4M3: half to even, and saturating in every version of PyTorch."""
    return values.clamp(-FP8_MOST, FP8_MOST).to(FP8)


def packed_shape(inputs: int, outputs: int) -> tuple[int, ...]:
    """Shape of the bytes that hold int4 values [in, out]: rows, where two never share a byte."""
    return (-(-inputs * outputs // 2),) if outputs % 2 else (inputs, outputs // 2)


def unpacked(stored: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Int4 values of bytes that hold two each, the first in the low half: int8 of a shape."""
    halves = torch.stack((stored & 0xF, stored >> 4), -1).flatten()[: math.prod(shape)]
    return ((halves ^ 8).to(torch.int8) - 8).view(shape)


def quantize_modules(
    model: Llama, precision: Precision, dense: frozenset[str] = frozenset()
) -> Llama:
    """Put the quantized form in the place of projections, but for those of the `dense` modules.

    And in that of the vocabulary's tables. The weights are to be loaded.
    """
    if precision.linear == "dense":
        return model
    if precision.vocab == "int8":
        model.embed = QuantizedTable(model.embed)
        model.unembed = QuantizedTable(model.unembed) if model.unembed else None
    for i, block in enumerate(model.layers):
        for name, module in list(block.named_children()):
            if isinstance(module, Linear) and f"layers.{i}.{name}" not in dense:
                setattr(block, name, QuantizedLinear(module, precision))
    return model
