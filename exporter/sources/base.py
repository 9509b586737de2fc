"""`TensorSource`: what every checkpoint format answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.vocabulary.bpe import Text
from llx.llama.spec import LlamaSpec
from llx.manifest import UNREAD

__all__ = [
    "COLUMN_STEP",
    "TensorInfo",
    "TensorSource",
    "Text",
    "interleaved_rows",
    "read_text",
]

COLUMN_STEP = 256  # the largest block that GGUF quantizes together


@dataclass(frozen=True)
class TensorInfo:
    """Shape and stored dtype of a checkpoint's tensor, and whether it is read as floats."""

    shape: tuple[int, ...]
    dtype: str
    is_float: bool = True


class TensorSource(Protocol):
    """A checkpoint: its spec, its tensors by their Hugging Face names, its tokenizer.

    `warnings`: what the user is to know of it, one line each.
    """

    format: str
    path: Path
    spec: LlamaSpec
    warnings: list[str]
    """What the user is to know of it, a line each; `text` may add to them."""
    skipped: dict[str, str]
    """What is stored and never handed out, and why."""

    @property
    def files(self) -> list[Path]:
        """The files that the weights are read from."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the checkpoint."""

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor, or a block of one, in a floating-point dtype.

        Columns of a matrix begin and end at a multiple of `COLUMN_STEP`, or at its end. What is
        read may be a view of the file, whose pages count as memory until it is let go of; it is
        never written to.
        """

    def text(self) -> Text | None:
        """The tokenizer, where the checkpoint has one that llx reads; else `warnings` has why."""


def read_text(read: Callable[[], Text | None], warnings: list[str]) -> Text | None:
    """A checkpoint's tokenizer, where it can be read; what is to be known of it joins `warnings`.

    A tokenizer that cannot be read never stops the weights.
    """
    try:
        text = read()
    except BadInput as error:
        text, found = None, [f"{UNREAD}{error}"]
    else:
        found = list(text.warnings) if text else []
    warnings += [line for line in found if line not in warnings]
    return text


def interleaved_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """Where each of our rows of q or k lies in a checkpoint that interleaves RoPE's pairs, [rows].

    Meta's files and llama.cpp's keep a pair's two rows side by side; Hugging Face's, and our,
    layout has the first of all pairs in one half of a head and the second in the other.
    """
    return np.asarray(np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel())
