"""`TensorSource`: what every checkpoint format answers, and the check of coverage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.vocabulary.read import Text
from llx.files import is_lfs_pointer
from llx.llama.spec import LlamaSpec
from llx.llama.weights import weights_of

__all__ = [
    "COLUMN_STEP",
    "TensorInfo",
    "TensorSource",
    "Text",
    "check_coverage",
    "interleaved_rows",
    "read_json",
]

MOST_JSON_BYTES = 64 << 20
COLUMN_STEP = 256  # the largest block that GGUF quantizes together


@dataclass(frozen=True)
class TensorInfo:
    """Shape and stored dtype of a checkpoint's tensor."""

    shape: tuple[int, ...]
    dtype: str


class TensorSource(Protocol):
    """A checkpoint: its spec, its tensors by their Hugging Face names, its tokenizer."""

    format: str
    path: Path
    spec: LlamaSpec
    warnings: list[str]
    """What the user is to know of it, a line each; `text` may add to them."""

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
        """The tokenizer, where the checkpoint has one that llx reads."""


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


def check_coverage(source: TensorSource) -> dict[str, str]:
    """Hold the checkpoint against the model, both ways; return the tensors left out and why.

    Raises `BadInput` where a tensor is missing, extra or of another shape: a model that exports
    with a weight left out answers fluently and wrongly.
    """
    found = source.tensors
    needed = {part.name: part.shape for w in weights_of(source.spec) for part in w.parts}
    missing = [name for name in needed if name not in found]
    if missing:
        raise BadInput(
            f"{source.path} lacks {_some(missing)}",
            "use a complete checkpoint: download it again, or check config.json",
        )
    wrong = [
        f"{name} is {list(found[name].shape)} where the model needs {list(shape)}"
        for name, shape in needed.items()
        if found[name].shape != shape
    ]
    if wrong:
        raise BadInput(
            f"{source.path}: {_some(wrong)}", "use the config.json that belongs to these weights"
        )
    ignored = {name: _reason(name, source.spec) for name in found if name not in needed}
    extra = [name for name, reason in ignored.items() if reason is None]
    if extra:
        raise BadInput(
            f"{source.path} holds {_some(extra)}, which a LLaMA has no place for",
            "export the plain model: merge adapters and drop extra heads first",
        )
    return {name: reason for name, reason in ignored.items() if reason}


def _reason(name: str, spec: LlamaSpec) -> str | None:
    """Why a tensor may be left out, or None where it may not."""
    if name.endswith("rotary_emb.inv_freq"):
        return "RoPE frequencies are computed from the configuration"
    if name == "lm_head.weight" and spec.tied:
        return "tied to model.embed_tokens.weight"
    return None


def _some(names: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
