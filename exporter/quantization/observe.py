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
SHIFTS = 16  # to an octave: an input divided by 2^(k/16) lies elsewhere between two powers of two
SHIFTED_ROWS = 4  # of so many rows one is rounded, which costs as much as a Gram matrix otherwise
E4M3_DROPS = 20  # of fp32's 23 bits of mantissa


@dataclass
class InputStatistics:
    """What was seen of a linear layer's inputs x [N, in], all in fp32.

    `maxima`: the largest magnitude of each channel, [in]. `gram`: the sum of x·xᵀ, [in, in], where
    it is wanted. `count`: how many inputs there were. `shifted`, where it is wanted: what E4M3 errs
    by, of each shift and channel, [SHIFTS, in]; sums of squares, of inputs over the largest of a
    row, since one token's outliers would decide by themselves.
    """

    maxima: Tensor
    gram: Tensor | None
    count: int = 0
    shifted: Tensor | None = None

    @classmethod
    def of(cls, channels: int, gram: bool = True, shifted: bool = False) -> InputStatistics:
        """Of nothing yet."""
        return cls(
            torch.zeros(channels),
            torch.zeros(channels, channels) if gram else None,
            shifted=torch.zeros(SHIFTS, channels) if shifted else None,
        )

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
        if self.shifted is not None:
            self.shifted += _shifted(rows[::SHIFTED_ROWS])
        self.count += len(rows)


def _shifted(rows: Tensor) -> Tensor:
    """What E4M3 errs by of rows [N, in] at each shift, [SHIFTS, in]; its range is not counted."""
    sizes = rows.abs().amax(1, keepdim=True)
    rows = rows / torch.where(sizes > 0, sizes, 1.0)
    errors = []
    for shift in range(SHIFTS):
        factor = 2 ** (shift / SHIFTS)
        divided = (rows / factor).contiguous()
        # Half of the last bit that stays is added, and what is below is dropped.
        bits = divided.view(torch.int32) + (1 << (E4M3_DROPS - 1))
        rounded = (bits & -(1 << E4M3_DROPS)).view(torch.float32)
        errors.append(rounded.sub_(divided).mul_(factor).square_().sum(0))
    return torch.stack(errors)


def observe(
    source: TensorSource,
    hidden: Tensor,
    seen: Callable[[int, dict[str, InputStatistics]], None],
    first: int = 0,
    progress: Progress = silent,
    grams: bool = True,
    shifted: bool = False,
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
                of_module = InputStatistics.of(module.weight.shape[0], grams, shifted)
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
