"""Linear layers in 8 bits, in eager PyTorch: what the Q/DQ of a graph means, and its reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llx.llama.model import Linear, Llama

MOST = 127  # symmetric: -128 has no counterpart, and no weight is it


class QuantizedLinear(nn.Module):
    """A projection whose int8 weight is [in, out], with its scales: `llx.graphs.linear` in words.

    Uninitialised: load it. The values are dequantized at every step, so it is right and slow.
    """

    def __init__(self, dense: Linear) -> None:
        super().__init__()
        shape, dtype = dense.weight.shape, dense.weight.dtype

        def held(*shape: int, dtype: torch.dtype = dtype) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

        self.weight = held(*shape, dtype=torch.int8)
        self.weight_scale = held(shape[1])
        self.input_scale = held()
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] → [B, T, out], as QuantizeLinear rounds: half to even, within -128…127."""
        steps = (x.float() / self.input_scale.float()).round().clamp(-MOST - 1, MOST)
        product = (steps * self.input_scale.float()) @ (self.weight * self.weight_scale.float())
        out = product.to(x.dtype)
        return out if self.bias is None else out + self.bias


def quantize_linears(model: Llama) -> Llama:
    """Put the 8-bit form in the place of every projection; the weights are to be loaded."""
    for block in model.layers:
        for name, module in list(block.named_children()):
            if isinstance(module, Linear):
                setattr(block, name, QuantizedLinear(module))
    return model
