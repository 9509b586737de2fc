"""`TensorSource`: what every checkpoint format answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.vocabulary.bpe import Text
from llx.files import is_lfs_pointer
from llx.llama.spec import LlamaSpec

__all__ = [
    "COLUMN_STEP",
    "UNREAD",
    "TensorInfo",
    "TensorSource",
    "Text",
    "interleaved_rows",
    "read_json",
    "read_text",
]

MOST_JSON_BYTES = 64 << 20
UNREAD = "the tokenizer is left out: "  # how a warning begins that says why there is none
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of moderate size, in UTF-8. Raises `BadInput` for anything else.

    Strict where transformers is: a byte order mark or another encoding is none that it reads. As
    there, NaN is a number, and of a key that stands there twice the last one counts.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise BadInput(
                f"{path} has more than {MOST_JSON_BYTES >> 20} MiB: too much for JSON of a model",
                "use the checkpoint's own file of that name",
            )
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})", "make it readable") from None
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(*_why_no_json(path, data, error)) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object", "use the checkpoint's own file of that name")
    return value


def _why_no_json(path: Path, data: bytes, error: Exception) -> tuple[str, str]:
    """What a file is instead of JSON, and what mends that."""
    if is_lfs_pointer(path):
        return f"{path} is a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"
    if data.lstrip()[:1] == b"<":
        return f"{path} is a web page, not JSON", "download it again, the file and not its page"
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return f"{path} begins with a byte order mark", "save it as UTF-8 without one"
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not readable JSON (not in UTF-8)", "save it as UTF-8"
    if isinstance(error, RecursionError):
        return f"{path} is not readable JSON (nested too deeply)", "use the checkpoint's own"
    cut = isinstance(error, json.JSONDecodeError) and not error.doc[error.pos :].strip()
    cut = cut or "Unterminated string" in str(error)
    remedy = "download it again: it is cut off" if cut else "correct it there"
    return f"{path} is not readable JSON ({error})", remedy


def interleaved_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """Where each of our rows of q or k lies in a checkpoint that interleaves RoPE's pairs, [rows].

    Meta's files and llama.cpp's keep a pair's two rows side by side; Hugging Face's, and our,
    layout has the first of all pairs in one half of a head and the second in the other.
    """
    return np.asarray(np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel())
