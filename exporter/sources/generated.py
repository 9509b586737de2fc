"""Random weights for a model whose checkpoint is not at hand: right in shape, size and scale.

What depends on shapes alone can be measured with them: speed and memory. What depends on values
cannot: there is no tokenizer, no perplexity and no answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from llx.exporter.sources.base import COLUMN_STEP, TensorInfo, Text
from llx.llama.spec import LlamaSpec
from llx.llama.weights import weights_of

ALL = slice(None)


class RandomSource:
    """Normal weights by seed: the same seed gives the same bytes, in whatever blocks they are read.

    Norms are 1 ± 0.1. A matrix has the standard deviation 1/√in, which keeps activations of about
    one; projections onto the residual stream are divided by √(2·L), as GPT-2 was initialised
    (Radford et al., 2019, section 2.3).
    """

    format = "random"
    path = Path("random")

    def __init__(self, spec: LlamaSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.files: list[Path] = []
        self.warnings: list[str] = []

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor that the model needs."""
        parts = (part for weight in weights_of(self.spec) for part in weight.parts)
        return {part.name: TensorInfo(part.shape, "F32") for part in parts}

    @cached_property
    def _tables(self) -> set[str]:
        """Names of the matrices that are read by rows; all others are read by columns."""
        return {w.parts[0].name for w in weights_of(self.spec) if w.kind == "table"}

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in float32."""
        shape = self.tensors[name].shape
        if len(shape) == 1:
            return (1 + 0.1 * self._normal(name, 0, shape))[rows]
        scale = 1 / math.sqrt(shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale /= math.sqrt(2 * self.spec.layers)
        # Tiles of a fixed size, so that a block is the same whatever else is read.
        axis, span = (0, rows) if name in self._tables else (1, columns)
        start, stop, _ = span.indices(shape[axis])
        first = start // COLUMN_STEP
        tiles = []
        for tile in range(first, -(-stop // COLUMN_STEP)):
            size = min(COLUMN_STEP, shape[axis] - tile * COLUMN_STEP)
            tiles.append(
                self._normal(name, tile, (size, shape[1]) if axis == 0 else (shape[0], size))
            )
        whole = torch.cat(tiles, axis)
        inner = slice(start - first * COLUMN_STEP, stop - first * COLUMN_STEP)
        block = whole[inner, columns] if axis == 0 else whole[rows, inner]
        return block * scale

    def _normal(self, name: str, tile: int, shape: tuple[int, ...]) -> torch.Tensor:
        key = hashlib.sha256(f"{self.seed} {name} {tile}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
        return torch.randn(shape, generator=generator)

    def text(self) -> Text | None:
        """None: random weights say nothing."""
        return None
