"""Tensors that are stored twice: whether both are the same is seen by comparing every value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from llx.exporter.sources.base import TensorSource
from llx.llama.spec import LlamaSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BLOCK_VALUES = 8 << 20

Rows = Callable[[slice], torch.Tensor]
"""Reads rows of a tensor."""


def same_values(one: Rows, other: Rows, shape: tuple[int, ...]) -> bool:
    """Whether two tensors of a shape hold the same values, read in blocks of moderate size.

    NaN differs from everything, as it does for `torch.equal`: such tensors are not the same.
    """
    rows = shape[0] if shape else 1
    step = max(BLOCK_VALUES * rows // max(torch.Size(shape).numel(), 1), 1)
    for start in range(0, rows, step):
        span = slice(start, start + step)
        a, b = one(span), other(span)
        dtype = torch.promote_types(a.dtype, b.dtype)
        if not torch.equal(a.to(dtype), b.to(dtype)):
            return False
    return True


def settled(source: TensorSource) -> LlamaSpec:
    """The spec, tied only where the checkpoint's tables are: a flag alone decides nothing.

    As in transformers (`PreTrainedModel.tie_weights`): where a tied model has a head of its own
    with other values, or in another shape, that head is used.
    """
    found = source.tensors if source.spec.tied else {}
    if EMBEDDING not in found or HEAD not in found:
        return source.spec
    table, head = found[EMBEDDING], found[HEAD]
    comparable = table.shape == head.shape and table.is_float and head.is_float
    if comparable and same_values(
        lambda rows: source.read(EMBEDDING, rows),
        lambda rows: source.read(HEAD, rows),
        table.shape,
    ):
        return source.spec
    return replace(source.spec, tied=False)
