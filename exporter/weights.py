"""The weights file: a valid safetensors file that ONNX graphs point into by offset.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, data).
The header is padded so that data starts on a page; tensors start on 64 bytes, kept so by entries
named `_pad.N`, since the format allows no gaps.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llx.artifact import CastCounts, FileRecord
from llx.exporter.direct import DirectWriter
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
CHUNK_VALUES = 32 << 20
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
    """Stream a checkpoint into a weights file, hashing on the way.

    Tensors pass in chunks through buffers that are made once, so memory depends on neither their
    number nor the vocabulary. One chunk is made while another is written and hashed.
    """
    digest = hashlib.sha256()
    chunks = _Chunks(source, layout.compute)
    with DirectWriter(path) as file, ThreadPoolExecutor(2) as workers, _one_thread():

        def put(data: bytes | memoryview) -> list[Future[Any]]:
            return [workers.submit(file.write, data), workers.submit(digest.update, data)]

        pending, written = put(layout.header), len(layout.header)
        for name, chunk in chunks:
            _wait(pending)
            progress("weights", written, layout.file_bytes, "B")
            pad = max(layout.places[name].offset - written, 0)
            if pad:
                _wait(put(bytes(pad)))
            data = _bytes_of(chunk)
            pending, written = put(data), written + pad + len(data)
        _wait(pending)
    progress("weights", written, layout.file_bytes, "B")
    assert written == layout.file_bytes, "the weights file is not as long as its layout"
    return FileRecord(bytes=written, sha256=digest.hexdigest()), chunks.counts


def _wait(pending: list[Future[Any]]) -> None:
    """Wait for each, and raise what one has raised: a full disk."""
    for future in pending:
        future.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch work in one thread: the other cores are busy, and its threads would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes. As integers, since NumPy has no bfloat16."""
    integers = torch.int32 if tensor.element_size() == 4 else torch.int16
    return tensor.view(integers).numpy().data.cast("B")


class _Chunks:
    """Every chunk of the weights file in order, cast; each is valid until the next but one.

    Fresh memory costs a page fault for every 4 KiB, so all chunks pass through three buffers: one
    where the parts are put together, and two that are written in turns.
    """

    def __init__(self, source: TensorSource, compute: Compute) -> None:
        self.source, self.compute = source, compute
        self.dtype = TORCH_DTYPES[compute]
        self.counts = CastCounts()
        widest = max(math.prod(w.shape[1:]) for w in weights_of(source.spec))
        values = max(CHUNK_VALUES, COLUMN_STEP * widest)
        self.stage, *outs = (torch.empty(values, dtype=self.dtype) for _ in range(3))
        self.outs = itertools.cycle(outs)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        spec = self.source.spec
        for part, name in enumerate(("rope.cos", "rope.sin")):
            for start in range(0, spec.context, TABLE_CHUNK_ROWS):
                positions = np.arange(start, min(start + TABLE_CHUNK_ROWS, spec.context))
                table = rope_tables(spec.rope, spec.head_dim, positions)[part]
                # Rounded once: to float32 by NumPy, to the half types from float64 by PyTorch.
                rounded = table.astype(np.float32) if self.compute == "fp32" else table
                yield name, torch.from_numpy(rounded).to(self.dtype)
        for weight in weights_of(spec):
            for blocks in blocks_of(self.source, weight):
                yield weight.name, self._in_file_order(blocks, weight.kind == "projection")

    def _in_file_order(self, blocks: list[torch.Tensor], transposed: bool) -> torch.Tensor:
        """The blocks of a weight's parts below one another, cast, and transposed if need be."""
        shape = (sum(len(block) for block in blocks), *blocks[0].shape[1:])
        out = next(self.outs)[: math.prod(shape)]
        stage = (self.stage[: math.prod(shape)] if transposed else out).view(shape)
        if self.dtype == torch.float32 or all(block.dtype == self.dtype for block in blocks):
            torch.cat(blocks, out=stage)
        else:
            whole = torch.cat(blocks)
            stage.copy_(whole)
            self._count(whole, stage)
        return out.view(shape[::-1]).copy_(stage.T) if transposed else stage

    def _count(self, values: torch.Tensor, cast: torch.Tensor) -> None:
        overflowed = int((values.isfinite() & ~cast.isfinite()).sum())
        underflowed = int(((values != 0) & (cast == 0)).sum())
        self.counts = CastCounts(
            overflowed=self.counts.overflowed + overflowed,
            underflowed=self.counts.underflowed + underflowed,
        )


def blocks_of(source: TensorSource, weight: Weight) -> Iterator[list[torch.Tensor]]:
    """A weight's parts, block by block: rows of a table, columns of a projection, else all.

    Blocks of a projection are [out, columns] each, to be put below one another and transposed.
    """
    rows, *rest = weight.shape
    if weight.kind == "vector":
        yield [source.read(part.name) for part in weight.parts]
        return
    step = max(CHUNK_VALUES // rest[0] // COLUMN_STEP, 1) * COLUMN_STEP
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        if weight.kind == "table":
            yield [source.read(weight.parts[0].name, span)]
        else:
            yield [source.read(part.name, columns=span) for part in weight.parts]
