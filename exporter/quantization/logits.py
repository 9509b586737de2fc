"""The last step of a model, from hidden states to the distribution of the next token, in blocks.

A vocabulary's logits for a window, and its table, can be larger than all else: both pass in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from llx.exporter.quantize import rounded_rows
from llx.exporter.sources import TensorSource
from llx.exporter.weights import blocks_of
from llx.llama import ops
from llx.llama.model import scaled
from llx.llama.weights import weights_of


class Head:
    """Final norm and vocabulary table of a checkpoint, in fp32.

    `rounded`: the table's rows are rounded to int8, with scales in that dtype.
    """

    def __init__(self, source: TensorSource, rounded: torch.dtype | None = None) -> None:
        self._rounded = rounded
        self._source, self._eps = source, source.spec.norm_eps
        self._scale = source.spec.logit_scale
        weights = {weight.name: weight for weight in weights_of(source.spec)}
        (part,) = weights["norm.weight"].parts
        self._norm = source.read(part.name).float()
        self._table = weights.get("unembed.weight", weights["embed.weight"])

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, dim] as they leave the last layer → logits [N, V]."""
        normed = self._normed(hidden)
        return scaled(torch.cat([normed @ rows.T for rows in self._rows()], -1), self._scale)

    def gradient_of_a_draw(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """The gradient of log p(y) of a token y drawn from p for each of N positions, [N, dim]."""
        with torch.enable_grad():
            states = hidden.clone().requires_grad_(True)
            normed = self._normed(states)
        logits = self.logits(hidden)
        probabilities = torch.softmax(logits, -1, out=logits)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        # Of the logits: one for what was drawn, less its probability for every token.
        of_logits = probabilities.neg_().scatter_add_(1, drawn, torch.ones(drawn.shape))
        of_normed, start = torch.zeros_like(hidden), 0
        for rows in self._rows():
            of_normed.addmm_(of_logits[:, start : start + len(rows)], rows)
            start += len(rows)
        (gradient,) = torch.autograd.grad(normed, states, scaled(of_normed, self._scale))
        return gradient

    def _normed(self, hidden: Tensor) -> Tensor:
        return ops.rms_norm(hidden, self._norm, self._eps)

    def _rows(self) -> Iterator[Tensor]:
        for (rows,) in blocks_of(self._source, self._table):
            yield rounded_rows(rows.float(), self._rounded) if self._rounded else rows.float()
