"""The weights file: a valid safetensors file that ONNX graphs point into by offset.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, data).
The header is padded so that data starts on a page; tensors start on 64 bytes, kept so by entries
named `_pad.N`, since the format allows no gaps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llx.artifact import CastCounts, FileRecord
from llx.exporter.sources import COLUMN_STEP, TensorSource
from llx.exporter.trace import TORCH_DTYPES
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Weight, weights_of
from llx.precision import BYTES, Compute
from llx.progress import Progress

PAGE_BYTES = 4096
ALIGN_BYTES = 64
TABLE_CHUNK_ROWS = 4096
CHUNK_VALUES = 8 << 20
SAFETENSORS_DTYPES: dict[Compute, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `offset` counts from the start of the file."""

    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A weights file before it is written: its header and the place of every tensor."""

    header: bytes
    places: dict[str, Place]
    compute: Compute

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return max(place.offset + place.length for place in self.places.values())


def layout_of(spec: LlamaSpec, compute: Compute) -> Layout:
    """Lay out every weight and the RoPE tables of a model, in the order they are written."""
    table = (spec.context, spec.head_dim // 2)
    shapes: list[tuple[str, tuple[int, ...]]] = [("rope.cos", table), ("rope.sin", table)]
    shapes += [(weight.name, weight.shape) for weight in weights_of(spec)]
    entries: dict[str, dict[str, object]] = {}
    spans: dict[str, tuple[tuple[int, ...], int, int]] = {}
    end = 0
    for name, shape in shapes:
        if pad := -end % ALIGN_BYTES:
            entries[f"_pad.{len(entries)}"] = _entry("U8", (pad,), end, pad)
            end += pad
        length = int(np.prod(shape)) * BYTES[compute]
        entries[name] = _entry(SAFETENSORS_DTYPES[compute], shape, end, length)
        spans[name] = (shape, end, length)
        end += length
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % PAGE_BYTES)
    start = 8 + len(header)
    places = {name: Place(shape, start + at, length) for name, (shape, at, length) in spans.items()}
    return Layout(len(header).to_bytes(8, "little") + header, places, compute)


def _entry(dtype: str, shape: tuple[int, ...], offset: int, length: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}


def write_weights(
    path: Path, source: TensorSource, layout: Layout, progress: Progress
) -> tuple[FileRecord, CastCounts]:
    """Stream a checkpoint into a weights file, one weight at a time, hashing on the way.

    Tensors pass in chunks, so memory depends on neither their number nor the vocabulary. One chunk
    is made while another is hashed and written.
    """
    digest = hashlib.sha256()
    overflowed = underflowed = written = 0
    with path.open("wb") as file:

        def put(data: bytes | memoryview) -> None:
            nonlocal written
            file.write(data)
            digest.update(data)
            written += len(data)

        put(layout.header)
        with ThreadPoolExecutor(1) as writer:
            pending = writer.submit(put, b"")
            for name, values in _stream(source, layout):
                cast = values.to(TORCH_DTYPES[layout.compute])
                if cast.dtype not in (values.dtype, torch.float32):
                    overflowed += int((values.isfinite() & ~cast.isfinite()).sum())
                    underflowed += int(((values != 0) & (cast == 0)).sum())
                data = _bytes_of(cast)
                pending.result()
                if written < layout.places[name].offset:
                    put(bytes(layout.places[name].offset - written))
                progress("weights", written, layout.file_bytes, "B")
                pending = writer.submit(put, data)
            pending.result()
        progress("weights", written, layout.file_bytes, "B")
    assert written == layout.file_bytes, "the weights file is not as long as its layout"
    counts = CastCounts(overflowed=overflowed, underflowed=underflowed)
    return FileRecord(bytes=written, sha256=digest.hexdigest()), counts


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in row order. As integers, since NumPy has no bfloat16."""
    integers = torch.int32 if tensor.element_size() == 4 else torch.int16
    return tensor.contiguous().view(integers).numpy().data.cast("B")


def _stream(source: TensorSource, layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in file order, large ones in several pieces."""
    spec = source.spec
    for part, name in enumerate(("rope.cos", "rope.sin")):
        for start in range(0, spec.context, TABLE_CHUNK_ROWS):
            positions = np.arange(start, min(start + TABLE_CHUNK_ROWS, spec.context))
            table = rope_tables(spec.rope, spec.head_dim, positions)[part]
            yield name, torch.from_numpy(_float32_first(table, layout.compute))
    for weight in weights_of(spec):
        for piece in read_weight(source, weight):
            yield weight.name, piece


def _float32_first(table: NDArray[np.float64], compute: Compute) -> NDArray[np.floating]:
    """Round once where the graph is fp32; half types are rounded from float64 by PyTorch."""
    return table.astype(np.float32) if compute == "fp32" else table


def read_weight(source: TensorSource, weight: Weight) -> Iterator[torch.Tensor]:
    """The pieces of one weight, in order of its rows, in the checkpoint's dtype."""
    rows, *rest = weight.shape
    if weight.kind == "vector":
        yield torch.cat([source.read(part.name) for part in weight.parts])
        return
    step = max(CHUNK_VALUES // rest[0] // COLUMN_STEP, 1) * COLUMN_STEP
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        if weight.kind == "table":
            yield source.read(weight.parts[0].name, span)
        else:
            yield torch.cat([source.read(part.name, columns=span) for part in weight.parts]).T
