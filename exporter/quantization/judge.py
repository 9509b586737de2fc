"""How far a quantized model is from its checkpoint, from the values and scales that it will hold.

It runs in PyTorch's fp32, block by block, and decides which layers stay as they are. What an
artifact is said to be worth is measured on its graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llx.exporter.graph.trace import TORCH_DTYPES
from llx.exporter.load import block_state, embedded
from llx.exporter.quantization.budget import Distance
from llx.exporter.quantization.fold import FoldedSource
from llx.exporter.quantization.logits import Head
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.quantize import rounded_inputs
from llx.exporter.sources import TensorSource
from llx.llama.model import Block, Linear
from llx.llama.streamed import run_blocks
from llx.precision import Precision
from llx.progress import Progress, silent


class Judge:
    """Judges mixtures of one calibrated model on windows of tokens [W, N]."""

    def __init__(
        self,
        source: TensorSource,
        precision: Precision,
        tokens: NDArray[np.int64],
        store: CalibrationStore,
        progress: Progress = silent,
    ) -> None:
        self._precision, self._store, self._progress = precision, store, progress
        self.windows = tokens
        self._tokens = torch.from_numpy(tokens)
        self._folded = FoldedSource(source, store.folds())
        dtype = TORCH_DTYPES[precision.compute] if precision.vocab == "int8" else None
        self._head, self._rounded_head = Head(source), Head(source, dtype)
        self._embedded = embedded(source, self._tokens, dtype)
        self._wanted = run_blocks(
            source.spec, embedded(source, self._tokens), lambda i: block_state(source, i)
        )

    def distance(self, dense: frozenset[str]) -> Distance:
        """Of the model whose `dense` modules are left as they are computed in."""

        def quantize(layer: int, block: Block) -> None:
            for name, linear in block.named_children():
                if isinstance(linear, Linear) and f"layers.{layer}.{name}" not in dense:
                    self._quantize(linear, f"layers.{layer}.{name}")

        hidden = run_blocks(
            self._folded.spec,
            self._embedded.clone(),
            lambda i: block_state(self._folded, i),
            quantize,
            self._progress,
            "judging",
        )
        return self.of(self._rounded_head.logits(window[:-1]) for window in hidden)

    def of(self, logits: Iterable[Tensor]) -> Distance:
        """Of a model by its logits [N - 1, V] for each window, however they came about."""
        kld, loss, count = 0.0, 0.0, 0
        for tokens, wanted, here in zip(self._tokens, self._wanted, logits, strict=True):
            p = torch.log_softmax(self._head.logits(wanted[:-1]), -1)
            q = torch.log_softmax(here, -1)
            true = tokens[1:, None]
            loss += float((p.gather(1, true) - q.gather(1, true)).double().sum())
            kld += float((p.exp() * p.sub_(q)).sum(-1).double().sum())
            count += len(true)
        return Distance(kld / count, math.exp(loss / count))

    def _quantize(self, linear: Linear, module: str) -> None:
        """Put what a module will hold into its place."""
        calibrated = self._store.read(module)
        quantized, most = calibrated.quantized, calibrated.input_most
        inputs = len(quantized.values)
        int4 = self._precision.linear == "int4"
        block = self._precision.block_of(inputs) if int4 else None
        linear.weight.data = quantized.dequantized(block)
        if self._precision.rounds_inputs:
            linear.register_forward_pre_hook(
                lambda _, inputs: (rounded_inputs(inputs[0], most, quantized),)
            )
