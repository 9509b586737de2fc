"""What each quantized linear layer costs by itself, in KLD, from one forward and one backward pass.

A small change δ of a layer's output y moves the model's distribution by KLD ≈ ½ δᵀFδ, where F is
the Fisher information E[g·gᵀ] of y, and g the gradient of log p(token) for tokens drawn from the
model itself (Martens, 2020, arXiv:1412.1193, section 5). What δ is, is known exactly: the quantized
layer's output less the layer's own. Both passes go block by block, as calibration does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llx.exporter.load import block_state, embedded, loaded_block
from llx.exporter.quantization.logits import Head
from llx.exporter.quantization.store import CalibratedModule, CalibrationStore
from llx.exporter.quantize import rounded_inputs
from llx.exporter.sources import TensorSource
from llx.llama.model import Linear, Rope
from llx.llama.streamed import run_blocks
from llx.precision import Precision
from llx.progress import Progress, silent

SEED = 0  # of the tokens that are drawn


def sensitivities(
    source: TensorSource,
    precision: Precision,
    tokens: NDArray[np.int64],
    store: CalibrationStore,
    progress: Progress = silent,
) -> dict[str, float]:
    """Predicted KLD in nats a token of each module that the store holds, from windows [W, N].

    `source`: the checkpoint with the store's folds, which is what its modules were rounded from.
    It is of second order, and takes layers' errors as independent of one another: good for
    comparing layers, and only roughly right in sum.
    """
    spec = source.spec
    hidden = embedded(source, torch.from_numpy(tokens))

    def keep(layer: int) -> None:
        np.save(_reaching(store, layer + 1), hidden.numpy(), allow_pickle=False)

    keep(-1)
    run_blocks(
        spec, hidden, lambda i: block_state(source, i), progress=progress, what="probe", after=keep
    )
    generator = torch.Generator().manual_seed(SEED)
    head = Head(source)
    gradients = torch.stack([head.gradient_of_a_draw(window, generator) for window in hidden])
    rope = Rope(spec, tokens.shape[1])
    rope.fill(spec, torch.float32)
    found: dict[str, float] = {}
    for done, layer in enumerate(reversed(range(spec.layers))):
        progress("sensitivity", done, spec.layers, "layer")
        inputs = torch.from_numpy(np.load(_reaching(store, layer), allow_pickle=False))
        found |= _of_layer(source, precision, layer, inputs, gradients, rope, store)
        _reaching(store, layer + 1).unlink()
    _reaching(store, 0).unlink()
    progress("sensitivity", spec.layers, spec.layers, "layer")
    return {module: squares / 2 / tokens.size for module, squares in found.items()}


def _reaching(store: CalibrationStore, layer: int) -> Path:
    """Where the hidden states that reach a layer are kept."""
    return store.scratch(f"reaching-{layer:04}.npy")


def _of_layer(
    source: TensorSource,
    precision: Precision,
    layer: int,
    hidden: Tensor,
    gradients: Tensor,
    rope: Rope,
    store: CalibrationStore,
) -> dict[str, float]:
    """Sums of (g·δ)² over all positions, by module.

    `hidden` [W, N, dim] reaches the layer. `gradients`, of what leaves it, become those of what
    reaches it.
    """
    spec = source.spec
    block = loaded_block(source, layer)
    passed: dict[str, tuple[Tensor, Tensor]] = {}

    for name, linear in block.named_children():
        if isinstance(linear, Linear):
            linear.register_forward_hook(_keeper(passed, name))
    positions = torch.arange(hidden.shape[1])[None]
    shape = (1, spec.kv_heads, hidden.shape[1], spec.head_dim)
    sums: dict[str, float] = {}
    for window, gradient in zip(hidden, gradients, strict=True):
        with torch.enable_grad():
            x = window[None].clone().requires_grad_(True)
            caches = torch.zeros(shape), torch.zeros(shape)
            block(x, positions, rope, *caches)[0].backward(gradient[None])
        assert x.grad is not None
        gradient.copy_(x.grad[0])
        for name, (inputs, output) in passed.items():
            assert output.grad is not None
            module = f"layers.{layer}.{name}"
            error = _output(store.read(module), precision, inputs[0].detach())
            error -= inputs[0].detach() @ getattr(block, name).weight
            along = (error * output.grad[0]).sum(-1)
            sums[module] = sums.get(module, 0.0) + float(along.square().sum())
        passed.clear()
    return sums


def _keeper(
    passed: dict[str, tuple[Tensor, Tensor]], name: str
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that keeps a layer's input and its output, whose gradient is wanted."""

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        passed[name] = inputs[0], output

    return keep


def _output(calibrated: CalibratedModule, precision: Precision, inputs: Tensor) -> Tensor:
    """A quantized layer's product for inputs [N, in] → [N, out]."""
    if precision.rounds_inputs:
        inputs = rounded_inputs(inputs, calibrated.input_most, calibrated.quantized)
    weight = calibrated.quantized.values
    block = precision.block_of(len(weight)) if precision.linear == "int4" else None
    return inputs @ calibrated.quantized.dequantized(block)
