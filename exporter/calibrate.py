"""Max calibration: the largest magnitude that each linear layer's input reaches on some text.

The plain method: nothing is smoothed, clipped or left out. One outlier in a million values decides
a scale, and all others are rounded to its steps. It is exact about the range and costs accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from llx.artifact import QuantizationRecord
from llx.corpus import WINDOW, Corpus, calibration_text, cut_windows, require_known
from llx.errors import BadInput
from llx.exporter.load import block_state, embedded
from llx.exporter.sources import TensorSource
from llx.exporter.sources.generated import RandomSource
from llx.llama.model import Block, Linear
from llx.llama.streamed import run_blocks
from llx.progress import Progress, silent

FP16_MOST = float(torch.finfo(torch.float16).max)
Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Calibration:
    """Largest magnitude of each linear layer's input by its module, and how it was found."""

    maxima: dict[str, float]
    record: QuantizationRecord


def calibrate(source: TensorSource, windows: int, progress: Progress = silent) -> Calibration:
    """Run the calibration windows through a checkpoint in fp32, one block's weights at a time.

    Raises `BadInput` where it has no tokenizer, where an activation is not finite, or where one is
    beyond fp16, in which the graph computes.
    """
    tokens, corpus = _windows(source, windows)
    record = QuantizationRecord(
        corpus=corpus.name if corpus else "random tokens",
        corpus_sha256=corpus.sha256 if corpus else None,
        windows=len(tokens),
        window=tokens.shape[1],
    )
    return Calibration(input_maxima(source, tokens, progress), record)


def _windows(source: TensorSource, count: int) -> tuple[NDArray[np.int64], Corpus | None]:
    """Windows of the calibration text [W, N], and the text; random tokens for random weights."""
    spec = source.spec
    length = min(WINDOW, spec.context)
    if isinstance(source, RandomSource):
        rng = np.random.default_rng(source.seed)
        return rng.integers(0, spec.vocab, (count, length), dtype=np.int64), None
    text = source.text()
    if text is None:
        raise BadInput(
            f"{source.path} has no tokenizer that llx reads, and int8 is calibrated on text",
            "put its tokenizer.json beside the weights, or export with --precision fp16",
        )
    corpus = calibration_text()
    tokens = cut_windows(Tokenizer.from_buffer(text.tokenizer), corpus, length, count).tokens
    require_known(int(tokens.max()), spec.vocab)
    return tokens, corpus


def input_maxima(
    source: TensorSource, tokens: NDArray[np.int64], progress: Progress = silent
) -> dict[str, float]:
    """Largest magnitude of every linear layer's input over windows of tokens [W, N]."""
    maxima: dict[str, float] = {}

    def watch(layer: int, block: Block) -> None:
        for name, module in block.named_children():
            if isinstance(module, Linear):
                module.register_forward_pre_hook(_recorder(maxima, f"layers.{layer}.{name}"))

    hidden = embedded(source, torch.from_numpy(tokens))
    run_blocks(
        source.spec, hidden, lambda i: block_state(source, i), watch, progress, "calibration"
    )
    return maxima


def _recorder(maxima: dict[str, float], module: str) -> Callable[[nn.Module, Inputs], None]:
    """A hook that keeps the largest magnitude of a module's input."""

    def record(_: nn.Module, inputs: Inputs) -> None:
        most = float(inputs[0].abs().max())
        if not math.isfinite(most):
            raise BadInput(
                f"the input of {module} is not finite, in PyTorch's fp32",
                "the weights hold NaN or infinity: export from an undamaged checkpoint",
            )
        if most > FP16_MOST:
            raise BadInput(
                f"the input of {module} reaches {most:.1e}, and int8's other half, fp16, ends at "
                f"{FP16_MOST:.0f}",
                "export with --precision fp32 or bf16",
            )
        maxima[module] = max(maxima.get(module, 0.0), most)

    return record
