"""What reaches each linear layer on some text, one block's weights at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llx.errors import BadInput
from llx.exporter.load import block_state
from llx.exporter.sources import TensorSource
from llx.llama.model import Block, Linear
from llx.llama.streamed import run_blocks
from llx.progress import Progress, silent

Inputs = tuple[Tensor, ...]


@dataclass
class InputStatistics:
    """What was seen of a linear layer's inputs x [N, in], all in fp32.

    `maxima`: the largest magnitude of each channel, [in]. `gram`: the sum of x·xᵀ, [in, in], where
    it is wanted. `count`: how many inputs there were.
    """

    maxima: Tensor
    gram: Tensor | None
    count: int = 0

    @classmethod
    def of(cls, channels: int, gram: bool = True) -> InputStatistics:
        """Of nothing yet."""
        return cls(torch.zeros(channels), torch.zeros(channels, channels) if gram else None)

    def add(self, module: str, inputs: Tensor) -> None:
        """See inputs [..., in] of a module. Raises `BadInput` where they are not finite."""
        rows = inputs.flatten(0, -2)
        maxima = rows.abs().amax(0)
        if not maxima.isfinite().all():
            raise BadInput(
                f"the input of {module} is not finite, in PyTorch's fp32",
                "the weights hold NaN or infinity: export from an undamaged checkpoint",
            )
        self.maxima = torch.maximum(self.maxima, maxima)
        if self.gram is not None:
            self.gram.addmm_(rows.T, rows)
        self.count += len(rows)


def observe(
    source: TensorSource,
    hidden: Tensor,
    seen: Callable[[int, dict[str, InputStatistics]], None],
    first: int = 0,
    progress: Progress = silent,
    grams: bool = True,
) -> None:
    """Send windows through the layers from `first` on; tell `seen` each layer's statistics.

    `hidden`: activations [W, N, dim] that reach layer `first`, in fp32, overwritten. When `seen` is
    called they are those that leave the layer, and the layer's weights have been let go of.
    """
    statistics: dict[str, InputStatistics] = {}

    def watch(layer: int, block: Block) -> None:
        statistics.clear()
        for name, module in block.named_children():
            if isinstance(module, Linear):
                of_module = InputStatistics.of(module.weight.shape[0], grams)
                statistics[f"layers.{layer}.{name}"] = of_module
                module.register_forward_pre_hook(_recorder(f"layers.{layer}.{name}", of_module))

    def _recorder(module: str, of_module: InputStatistics) -> Callable[[nn.Module, Inputs], None]:
        def record(_: nn.Module, inputs: Inputs) -> None:
            of_module.add(module, inputs[0])

        return record

    run_blocks(
        source.spec,
        hidden,
        lambda i: block_state(source, i),
        watch,
        progress,
        "calibration",
        first=first,
        after=lambda layer: seen(layer, statistics),
    )
