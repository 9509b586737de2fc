"""What a linear layer's input is divided by, channel by channel, its weight is multiplied by.

The product stays what it was, and no node is added: the division is folded into what makes the
input. Four places make one: the two norms (of q, k, v and of gate, up), v (of o, whatever attention
mixes) and up (of down; never gate, which SiLU bends). Factors are chosen as SmoothQuant and AWQ do;
fp8 has one for a whole layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llx.exporter.quantization.observe import InputStatistics
from llx.exporter.quantize import int4_nearest
from llx.exporter.sources import TensorInfo, TensorSource, Text
from llx.llama.spec import LlamaSpec

Folds = Mapping[str, Tensor]
"""Factors [in] by module, such as `layers.3.down`."""

# SmoothQuant's exponent: how much of an outlier goes over to the weights. 0.5 is the paper's; with
# four places, and rounding that makes good for itself, SmolLM2 wants 0.9 (reports/LOG.md).
SMOOTHING = 0.9
INPUT_MOST = 8.0  # what the largest input of every int8 layer becomes: near to a norm's own
FP8_INPUT_MOST = 7.0  # of every fp8 layer, whose scale is then 2⁻⁶
# By how much a weight's largest value may change: beyond, scales would leave fp16's normal range.
GROWTH_LEAST, GROWTH_MOST = 1 / 8, 64.0
# AWQ's exponents: 0 folds nothing, 1 evens out the channels.
AWQ_EXPONENTS = tuple(i / 20 for i in range(16))
LEAST = 1e-6  # of a channel that is always zero, whose factor is of no consequence


def smoothquant(spec: LlamaSpec, module: str, weight: Tensor, seen: InputStatistics) -> Tensor:
    """Factors [in] that share an outlier between input and weight [in, out].

    s = max|x|^α / max|w|^(1-α), per channel (Xiao et al., 2022, arXiv:2211.10438, equation 4). Then
    one factor for all channels, which brings the largest input of every layer to `INPUT_MOST`:
    TensorRT-RTX writes each scale as a number into the source of its kernels, so that layers with
    scales of their own share none. A weight of zeros is right whatever its input is divided by.
    """
    if not weight.any():
        return torch.ones(len(weight))
    inputs = _tied(spec, module, seen.maxima).clamp_min(LEAST)
    weights = _tied(spec, module, weight.abs().amax(1)).clamp_min(LEAST)
    factors = inputs**SMOOTHING / weights ** (1 - SMOOTHING)
    growth = float((weight.abs() * factors[:, None]).max()) / max(float(weight.abs().max()), LEAST)
    wanted = float((seen.maxima / factors).max()) / INPUT_MOST * growth
    return factors * (min(max(wanted, GROWTH_LEAST), GROWTH_MOST) / growth)


def awq(spec: LlamaSpec, module: str, weight: Tensor, seen: InputStatistics, block: int) -> Tensor:
    """Factors [in] that give inputs of weight a finer int4 step.

    s = rms(x)^α with the α for which the product errs least when weights are rounded to nearest
    (Lin et al., 2023, arXiv:2306.00978, equation 4, with the root mean square for the mean).
    """
    assert seen.gram is not None, "AWQ weighs errors by the Gram matrix"
    squares = seen.gram.diagonal() / seen.count
    sizes = _tied(spec, module, squares).sqrt().clamp_min(LEAST)
    best: tuple[float, Tensor] | None = None
    for exponent in AWQ_EXPONENTS:
        factors = sizes**exponent
        factors = factors / factors.log().mean().exp()
        scaled = int4_nearest(weight * factors[:, None], block, torch.float32, module)
        error = scaled.dequantized(block).div_(factors[:, None]).sub_(weight)
        loss = float((seen.gram @ error).mul_(error).sum())
        if best is None or loss < best[0]:
            best = loss, factors
    assert best is not None
    return best[1]


def levelled(weight: Tensor, seen: InputStatistics) -> Tensor:
    """One factor [in] for all channels, which brings the largest input to `FP8_INPUT_MOST`.

    E4M3's steps are as large as its values, so nothing is gained by sharing an outlier between
    input and weight [in, out], nor lost by a factor: it is for the reason that `smoothquant` has
    one, that layers of one scale share their kernels.
    """
    most = float(seen.maxima.max())
    if not weight.any() or not most:
        return torch.ones(len(weight))
    factor = min(max(most / FP8_INPUT_MOST, GROWTH_LEAST), GROWTH_MOST)
    return torch.full((len(weight),), factor)


def _tied(spec: LlamaSpec, module: str, values: Tensor) -> Tensor:
    """Values [in], of which those that one channel makes are the largest of them.

    Each channel of v is an input of o once for every query head that shares the KV head.
    """
    if not module.endswith(".o"):
        return values
    heads = values.view(spec.kv_heads, -1, spec.head_dim)
    return heads.amax(1, keepdim=True).expand_as(heads).reshape(-1)


class FoldedSource:
    """A checkpoint whose tensors are multiplied along rows and columns as they are read."""

    def __init__(self, source: TensorSource, folds: Folds) -> None:
        self._source = source
        self._rows: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}
        self.format: str = source.format
        self.path: Path = source.path
        self.spec: LlamaSpec = source.spec
        self.warnings, self.skipped = source.warnings, source.skipped
        for i in range(self.spec.layers):
            self._fold_layer(i, folds)

    def _fold_layer(self, layer: int, folds: Folds) -> None:
        prefix, spec = f"model.layers.{layer}.", self.spec
        names = ("qkv", "o", "gate_up", "down")
        qkv, o, gate_up, down = (folds.get(f"layers.{layer}.{name}") for name in names)
        if qkv is not None:
            self._rows[f"{prefix}input_layernorm.weight"] = 1 / qkv
            for part in "qkv":
                self._columns[f"{prefix}self_attn.{part}_proj.weight"] = qkv
        if o is not None:
            of_v = 1 / o.view(spec.kv_heads, -1, spec.head_dim)[:, 0].reshape(-1)
            self._rows[f"{prefix}self_attn.v_proj.weight"] = of_v
            self._rows[f"{prefix}self_attn.v_proj.bias"] = of_v
            self._columns[f"{prefix}self_attn.o_proj.weight"] = o
        if gate_up is not None:
            self._rows[f"{prefix}post_attention_layernorm.weight"] = 1 / gate_up
            for part in ("gate", "up"):
                self._columns[f"{prefix}mlp.{part}_proj.weight"] = gate_up
        if down is not None:
            self._rows[f"{prefix}mlp.up_proj.weight"] = 1 / down
            self._rows[f"{prefix}mlp.up_proj.bias"] = 1 / down
            self._columns[f"{prefix}mlp.down_proj.weight"] = down

    @property
    def files(self) -> list[Path]:
        """The files of the checkpoint."""
        return self._source.files

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the checkpoint."""
        return self._source.tensors

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """A tensor or a block of one, multiplied in fp32."""
        block = self._source.read(name, rows, columns)
        of_rows, of_columns = self._rows.get(name), self._columns.get(name)
        if of_rows is None and of_columns is None:
            return block
        block = block.to(torch.float32, copy=True)
        if of_rows is not None:
            block.mul_(of_rows[rows].view(-1, *[1] * (block.dim() - 1)))
        if of_columns is not None:
            block.mul_(of_columns[columns])
        return block

    def text(self) -> Text | None:
        """The checkpoint's tokenizer."""
        return self._source.text()
