"""GGUF files as they lie on disk: one, or the parts that llama.cpp's gguf-split cuts one into.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput, one_line
from llx.exporter.sources.damage import unreadable
from llx.exporter.sources.find import SHARD, missing_shards, require_shards, shard_sets
from llx.exporter.sources.gguf_header import require_readable

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# What the reader raises on a file that is cut off or is no GGUF at all.
DAMAGE = (
    *(ValueError, IndexError, KeyError, OverflowError, TypeError, OSError, MemoryError),
    FloatingPointError,  # a sum of places that wraps around
)
MERGE = "put every part into one folder, or merge them with llama.cpp's `llama-gguf-split --merge`"
ELSEWHERE = "export from the Hugging Face checkpoint"
ARRAY = gguf.GGUFValueType.ARRAY


class _Reader(gguf.GGUFReader):
    """gguf's reader, which would read past the end of a file as if nothing stood there.

    A list of numbers is taken as one piece: the original takes a step for each, for as many as the
    file says that there are.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        most = len(self.data) - offset
        if int(count) * np.dtype(dtype).itemsize > most:
            raise ValueError(f"it ends where {count} more values should stand")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(self._get(orig_offs, np.uint32)[0])
        if kind == ARRAY:
            raise ValueError("a list of lists")
        dtype = self.gguf_scalar_to_np.get(kind)
        if dtype is None:  # of strings, each of which takes at least the bytes of its length
            (count,) = self._get(orig_offs + 4, np.uint64)
            self._get(orig_offs + 12, np.uint64, count)
            return super()._get_field_parts(orig_offs, raw_type)
        head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        values = self._get(orig_offs + 12, dtype, head[1][0])
        return 12 + values.nbytes, [*head, values], [2], [gguf.GGUFValueType.ARRAY, kind]


@dataclass(frozen=True)
class Stored:
    """A tensor in a GGUF file; `shape` is [out, in], the reverse of the file's order."""

    path: Path
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    dtype: np.dtype[Any]
    row_bytes: int

    @property
    def is_float(self) -> bool:
        """Whether it is dequantized to floats: not one of the few integer types."""
        return self.dtype == np.uint8 or self.kind.name in FLOATS

    def values(self, rows: Any = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Values in memory of their own; float16 stays what it is, others are float32 or wider.

        `rows`: a slice, or where each row lies. Columns begin and end with a block. The file is
        mapped anew each time: its pages count as memory for as long as it is mapped.
        """
        width = self.shape[-1]
        start, stop, _ = columns.indices(width)
        shape = (*self.shape[:-1], self.row_bytes // self.dtype.itemsize)
        data = np.memmap(self.path, self.dtype, "r", self.offset, shape)
        if self.kind.name in FLOATS:
            part = data[rows] if data.ndim == 1 else data[rows, start:stop]
            return np.array(part, FLOATS[self.kind.name])
        if data.ndim == 1:
            return np.asarray(_dequantized(np.array(data), self.kind)[rows])
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        span = slice(start * block_bytes // block, -(-stop * block_bytes // block))
        return _dequantized(np.array(data[rows, span]), self.kind)


class GgufFile:
    """A GGUF checkpoint: its fields, and its tensors by llama.cpp's names, wherever they lie."""

    def __init__(self, path: Path) -> None:
        first = _opened(path)
        self.paths = [path]
        self.fields: Mapping[str, Any] = first.fields
        self.tensors = _tensors(path, first)
        count = _number(first, "split.count")
        if count > 1:
            self._read_parts(path, count)
        elif (part := SHARD.fullmatch(path.name)) and int(part[3]) > 1:
            self.part_by_name = f"{path.name} is called part {int(part[2])} of {int(part[3])}"

    part_by_name = ""
    """What its name says, where it is a part by name alone: nothing may follow from an absence."""

    def get_field(self, key: str) -> Any:
        """A field, whose `contents()` it has, or None where there is none."""
        return self.fields.get(key)

    def _read_parts(self, path: Path, count: int) -> None:
        """Read the siblings of a part: the first has the fields, each has some of the tensors."""
        paths = _siblings(path, count)
        readers = {part: _opened(part) for part in paths}
        for part, reader in readers.items():
            if _number(reader, "split.count") != count:
                raise BadInput(f"{part} is no part of the same {count} as {path.name}", MERGE)
        numbers = [_number(reader, "split.no") for reader in readers.values()]
        if sorted(numbers) != list(range(count)):
            raise BadInput(f"{path.parent} holds parts that call themselves {numbers}", MERGE)
        self.paths = paths
        self.fields = next(r for r in readers.values() if not _number(r, "split.no")).fields
        self.tensors = {}
        for part, reader in readers.items():
            for name, stored in _tensors(part, reader).items():
                if name in self.tensors:
                    other = self.tensors[name].path.name
                    raise BadInput(f"{name} is in {other} and in {part.name}", MERGE)
                self.tensors[name] = stored
        whole = max(_number(reader, "split.tensors.count") for reader in readers.values())
        if whole != len(self.tensors):
            raise BadInput(
                f"the parts of {path.name} hold {len(self.tensors)} of {whole} tensors", MERGE
            )


def gguf_sets(folder: Path) -> list[list[Path]]:
    """The GGUF files of a folder, the parts of one checkpoint together."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".gguf")
    return shard_sets(path for path in files if path.is_file())


def _siblings(path: Path, count: int) -> list[Path]:
    shard = SHARD.fullmatch(path.name)
    if not shard or int(shard[3]) != count:
        raise BadInput(
            f"{path} is one of {count} parts, and its name does not say which",
            "give the parts the names that llama.cpp gave them, NAME-00001-of-00002.gguf, …",
        )
    (paths,) = (s for s in gguf_sets(path.parent) if path in s)
    require_shards(path.parent, missing_shards(paths), path.name)
    return paths


def _opened(path: Path) -> Any:
    try:
        with np.errstate(over="raise"):
            require_readable(path)
            reader = _Reader(path)
    except DAMAGE as error:
        unknown = "is not a valid GGMLQuantizationType" in str(error)
        if unknown:
            raise BadInput(
                f"{path} holds a tensor of an unknown quantization ({one_line(error)})",
                "export from the Hugging Face checkpoint, or update the package gguf",
            ) from None
        raise unreadable(path, "GGUF file", error) from None
    return reader


def _number(reader: Any, key: str) -> int:
    field = reader.fields.get(key)
    try:
        return 0 if field is None else int(field.contents())
    except DAMAGE:
        return 0


def _tensors(path: Path, reader: Any) -> dict[str, Stored]:
    """Every tensor of a file, each within it and of a kind that can be dequantized."""
    stored = {}
    for tensor in reader.tensors:
        shape, kind = tuple(int(n) for n in reversed(tensor.shape)), tensor.tensor_type
        if not shape or not all(shape):
            raise BadInput(
                f"{path}: {tensor.name} has the shape {list(shape)}, of no values", ELSEWHERE
            )
        rows = int(np.prod(shape[:-1], dtype=object)) if len(shape) > 1 else 1
        row_bytes = tensor.data.nbytes // rows
        offset = int(tensor.data_offset)
        stored[tensor.name] = Stored(path, kind, shape, offset, tensor.data.dtype, row_bytes)
    for kind in {one.kind for one in stored.values() if one.dtype == np.uint8}:
        try:
            _dequantized(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], np.uint8), kind)
        except NotImplementedError:
            raise BadInput(
                f"{path} is quantized as {kind.name}, which is not read",
                "export from the Hugging Face checkpoint, or from a GGUF file of another kind",
            ) from None
    return stored


def _dequantized(data: NDArray[Any], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    return np.asarray(gguf.quants.dequantize(data, kind))
