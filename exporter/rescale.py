"""One scale for the inputs of int8 linear layers, outliers apart, folded into what makes them.

TensorRT-RTX writes every scale as a number into the source of the kernels that quantize, so that
with scales of their own no two layers share a kernel (reports/LOG.md, 2026-11-25). What a layer's
input is multiplied by, its weights are divided by: the product stays, and so do the int8 values.
It is the fold of SmoothQuant (Xiao et al., 2022, arXiv:2211.10438) with one factor for all
channels. Four places make the inputs: the two norms (of q, k, v and of gate, up), v (of o, whatever
attention mixes) and up (of down; never gate, which SiLU bends).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from llx.exporter.sources import TensorInfo, TensorSource, Text
from llx.llama.spec import LlamaSpec

INPUT_MOST = 8.0  # what the largest input of every linear layer becomes: near to a norm's own
# Beyond these, what makes an input could leave fp16's range, or its weights' scales fall below it:
# such a layer keeps a part of its scale, and a kernel of its own.
FACTOR_LEAST, FACTOR_MOST = 1 / 32, 8.0


class RescaledSource:
    """A checkpoint some of whose tensors are multiplied by a factor each as they are read."""

    def __init__(self, source: TensorSource, factors: Mapping[str, float]) -> None:
        self._source, self._factors = source, factors
        self.format: str = source.format
        self.path: Path = source.path
        self.spec: LlamaSpec = source.spec

    @property
    def files(self) -> list[Path]:
        """The files of the checkpoint."""
        return self._source.files

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the checkpoint."""
        return self._source.tensors

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor or a block of one, multiplied in fp32."""
        block = self._source.read(name, rows, columns)
        factor = self._factors.get(name)
        return block if factor is None else block.float() * factor

    def text(self) -> Text | None:
        """The checkpoint's tokenizer."""
        return self._source.text()


def with_one_input_scale(
    source: TensorSource, maxima: Mapping[str, float]
) -> tuple[TensorSource, dict[str, float]]:
    """The checkpoint whose linear layers have inputs up to `INPUT_MOST`, and their new maxima.

    Where the factor would leave its limits, an input keeps a part of its own scale.

    `maxima`: the largest magnitude of each linear layer's input, by its module.
    """
    by_module = {module: _factor(most) for module, most in maxima.items()}
    factors: dict[str, float] = {}
    for i in range(source.spec.layers):
        qkv, o, gate_up, down = (
            by_module[f"layers.{i}.{name}"] for name in ("qkv", "o", "gate_up", "down")
        )
        layer = {
            "input_layernorm.weight": qkv,
            "self_attn.q_proj.weight": 1 / qkv,
            "self_attn.k_proj.weight": 1 / qkv,
            "self_attn.v_proj.weight": o / qkv,
            "self_attn.v_proj.bias": o,
            "self_attn.o_proj.weight": 1 / o,
            "post_attention_layernorm.weight": gate_up,
            "mlp.gate_proj.weight": 1 / gate_up,
            "mlp.up_proj.weight": down / gate_up,
            "mlp.up_proj.bias": down,
            "mlp.down_proj.weight": 1 / down,
        }
        factors |= {f"model.layers.{i}.{name}": factor for name, factor in layer.items()}
    rescaled = {module: maxima[module] * factor for module, factor in by_module.items()}
    return RescaledSource(source, factors), rescaled


def _factor(most: float) -> float:
    """What brings a layer's largest input to `INPUT_MOST`; 1 where all of it is zero."""
    if not most:
        return 1.0
    return min(max(INPUT_MOST / most, FACTOR_LEAST), FACTOR_MOST)
