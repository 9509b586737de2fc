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
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llx.errors import BadInput
from llx.exporter.direct import DirectWriter
from llx.exporter.graph.trace import TORCH_DTYPES
from llx.exporter.quantize import (
    Quantized,
    Ready,
    int4_nearest,
    int8_rows,
    most_of,
    packed,
    quantize_,
    scales_from,
)
from llx.exporter.sources import COLUMN_STEP, TensorSource
from llx.llama.quantized import FP8, INT4_LEAST, INT4_MOST, packed_shape
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Weight, linear_of, weights_of
from llx.manifest import CastCounts, FileRecord
from llx.precision import ROUNDS_INPUTS, Compute, Precision
from llx.progress import Progress

PAGE_BYTES = 4096
ALIGN_BYTES = 64
ALL = slice(None)
TABLE_CHUNK_ROWS = 4096
CHUNK_VALUES = 32 << 20
SAFETENSORS_DTYPES: dict[Compute, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
FP8_DTYPE = "F8_E4M3"
VALUE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, FP8_DTYPE: 1}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies, and its dtype as safetensors spells it.

    `offset` counts from the start of the file.
    """

    shape: tuple[int, ...]
    offset: int
    length: int
    dtype: str


@dataclass(frozen=True)
class Layout:
    """A weights file before it is written: its header and the place of every tensor."""

    header: bytes
    places: dict[str, Place]
    precision: Precision
    dense: frozenset[str]

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return max(place.offset + place.length for place in self.places.values())


def layout_of(
    spec: LlamaSpec,
    precision: Precision,
    dense: frozenset[str] = frozenset(),
    positions: int | None = None,
) -> Layout:
    """Lay out every weight and the RoPE tables of a model, in the order they are written.

    `dense`: modules, such as `layers.3.down`, that are stored as they are computed in. `positions`:
    how many the tables hold, the cache's capacity; None for the whole context.
    """
    unknown = dense - {weight.module for weight in weights_of(spec)}
    assert not unknown, f"the model has no {', '.join(sorted(unknown))}"
    entries: dict[str, dict[str, object]] = {}
    places: dict[str, Place] = {}
    end = 0
    for name, shape, dtype in _tensors(spec, precision, dense, positions or spec.context):
        if pad := -end % ALIGN_BYTES:
            entries[f"_pad.{len(entries)}"] = _entry("U8", (pad,), end, pad)
            end += pad
        length = math.prod(shape) * VALUE_BYTES[dtype]
        entries[name] = _entry(dtype, shape, end, length)
        places[name] = Place(shape, end, length, dtype)
        end += length
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % PAGE_BYTES)
    start = 8 + len(header)
    places = {name: replace(place, offset=start + place.offset) for name, place in places.items()}
    return Layout(len(header).to_bytes(8, "little") + header, places, precision, dense)


def _tensors(
    spec: LlamaSpec, precision: Precision, dense: frozenset[str], positions: int
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of all that the file holds; a quantized weight has its scales.

    Safetensors has no int4: its values lie two to a byte, in rows where these are even.
    """
    dtype = SAFETENSORS_DTYPES[precision.compute]
    for name in ("rope.cos", "rope.sin"):
        yield name, (positions, spec.rotated // 2), dtype
    for weight in weights_of(spec):
        linear = linear_of(weight, precision, dense)
        if linear == "dense":
            yield weight.name, weight.shape, dtype
        elif linear == "int4":
            inputs, outputs = weight.shape
            yield weight.name, packed_shape(inputs, outputs), "U8"
            blocks = -(-inputs // precision.block_of(inputs))
            yield f"{weight.name}_scale", (blocks, outputs), dtype
        else:
            yield weight.name, weight.shape, FP8_DTYPE if linear == "fp8" else "I8"
            yield f"{weight.name}_scale", (weight.outputs,), dtype
            if linear in ROUNDS_INPUTS:
                yield f"{weight.module}.input_scale", (), dtype


def _entry(dtype: str, shape: tuple[int, ...], offset: int, length: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}


def write_weights(
    path: Path,
    source: TensorSource,
    layout: Layout,
    progress: Progress,
    input_maxima: Mapping[str, float] | None = None,
    ready: Ready = lambda _: None,
) -> tuple[FileRecord, CastCounts]:
    """Stream a checkpoint into a weights file, hashing on the way.

    Tensors pass in chunks through buffers that are made once, so memory depends on neither their
    number nor the vocabulary. One chunk is made while another is written and hashed.
    `input_maxima`: of layers whose inputs are rounded, the largest input by module.
    `ready`: has the values of quantized modules that are not to be rounded to nearest.
    """
    digest = hashlib.sha256()
    chunks = _Chunks(source, layout, input_maxima or {}, ready)
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
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    return tensor.view(integers[tensor.element_size()]).numpy().data.cast("B")


class _Chunks:
    """Every chunk of the weights file in order, cast or quantized; valid until the next but one.

    Fresh memory costs a page fault for every 4 KiB, so all chunks pass through three buffers: one
    where the parts are put together, and two that are written in turns.
    """

    def __init__(
        self,
        source: TensorSource,
        layout: Layout,
        input_maxima: Mapping[str, float],
        ready: Ready,
    ) -> None:
        self.source, self.layout, self.input_maxima = source, layout, input_maxima
        self.ready = ready
        self.dtype = TORCH_DTYPES[layout.precision.compute]
        self.values = FP8 if layout.precision.linear == "fp8" else torch.int8
        self.counts = CastCounts()
        widest = max(math.prod(w.shape[1:]) for w in weights_of(source.spec))
        values = max(CHUNK_VALUES, COLUMN_STEP * widest)
        self.stage, *outs = (torch.empty(values, dtype=self.dtype) for _ in range(3))
        self.outs = itertools.cycle(outs)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        spec = self.source.spec
        for part, name in enumerate(("rope.cos", "rope.sin")):
            rows = self.layout.places[name].shape[0]
            for start in range(0, rows, TABLE_CHUNK_ROWS):
                positions = np.arange(start, min(start + TABLE_CHUNK_ROWS, rows))
                table = rope_tables(spec.rope, spec.rotated, positions)[part]
                # Rounded once: to float32 by NumPy, to the half types from float64 by PyTorch.
                rounded = table.astype(np.float32) if self.dtype == torch.float32 else table
                yield name, torch.from_numpy(rounded).to(self.dtype)
        for weight in weights_of(spec):
            linear = linear_of(weight, self.layout.precision, self.layout.dense)
            if linear == "dense":
                for blocks in blocks_of(self.source, weight):
                    yield weight.name, self._in_file_order(blocks, weight.kind == "projection")
                continue
            if weight.kind == "table":
                yield from self._int8_table(weight)
                continue
            ready = self.ready(weight.module)
            if ready:
                yield from self._given(weight, ready)
            elif linear == "int4":
                yield from self._int4(weight)
            else:
                yield from self._each_channel(weight)
            if linear in ROUNDS_INPUTS:
                most = torch.tensor([self.input_maxima[weight.module]])
                name = f"the input of {weight.module}"
                scale = scales_from(most, self.dtype, name, self.values)
                yield f"{weight.module}.input_scale", scale

    def _given(self, weight: Weight, ready: Quantized) -> Iterator[tuple[str, torch.Tensor]]:
        """A projection's values and scales as they were handed over."""
        int4, scale = self.layout.precision.linear == "int4", f"{weight.name}_scale"
        values, scales = ready.values, ready.scales
        assert values.dtype == self.values, f"the values of {weight.module} are {values.dtype}"
        assert tuple(values.shape) == weight.shape, f"{weight.module} is {weight.shape}"
        least, most = (
            (INT4_LEAST, INT4_MOST) if int4 else (-most_of(self.values), most_of(self.values))
        )
        lowest, highest = (float(bound) for bound in torch.aminmax(values.float()))
        assert least <= lowest <= highest <= most, f"{weight.module} overflows"  # or is NaN
        assert scales.dtype == self.dtype, f"the scales of {weight.module} are {scales.dtype}"
        assert tuple(scales.shape) == self.layout.places[scale].shape, f"{scale} is {scales.shape}"
        assert bool((scales.isfinite() & (scales > 0)).all()), f"{scale} is not positive"
        yield weight.name, packed(values) if int4 else values.contiguous()
        yield scale, scales.contiguous()

    def _int4(self, weight: Weight) -> Iterator[tuple[str, torch.Tensor]]:
        """A projection's int4 values, rounded to nearest, and the scales of its blocks.

        A chunk of columns holds whole blocks: each ends at a multiple of `COLUMN_STEP`.
        """
        block, scales = self.layout.precision.block_of(weight.shape[0]), []
        for blocks in blocks_of(self.source, weight):
            found = int4_nearest(torch.cat(blocks).float().T, block, self.dtype, weight.name)
            scales.append(found.scales)
            yield weight.name, packed(found.values)
        yield f"{weight.name}_scale", torch.cat(scales)

    def _each_channel(self, weight: Weight) -> Iterator[tuple[str, torch.Tensor]]:
        """A projection's int8 or E4M3 values, rounded to nearest, and its output channels' scales.

        A channel's maximum is over all blocks, so the source is read twice: memory stays that of a
        chunk, whatever the size of a projection.
        """
        maxima = [_channel_maxima(blocks) for blocks in blocks_of(self.source, weight)]
        scales = scales_from(torch.stack(maxima).amax(0), self.dtype, weight.name, self.values)
        for blocks in blocks_of(self.source, weight):
            values = quantize_(torch.cat(blocks).float(), scales.unsqueeze(1), self.values)
            yield weight.name, torch.empty(values.shape[::-1], dtype=self.values).copy_(values.T)
        yield f"{weight.name}_scale", scales

    def _int8_table(self, weight: Weight) -> Iterator[tuple[str, torch.Tensor]]:
        """A table's int8 rows, rounded to nearest, and the scale of each."""
        scales = []
        for (rows,) in blocks_of(self.source, weight):
            found = int8_rows(rows.float(), self.dtype, weight.name)
            scales.append(found.scales)
            yield weight.name, found.values
        yield f"{weight.name}_scale", torch.cat(scales)

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


def _channel_maxima(blocks: list[torch.Tensor]) -> torch.Tensor:
    """Largest magnitude of each output channel of a projection's block, [out], in float32."""
    return torch.cat([block.abs().amax(1) for block in blocks]).float()


def blocks_of(source: TensorSource, weight: Weight) -> Iterator[list[torch.Tensor]]:
    """A weight's parts, block by block: rows of a table, columns of a projection, else all.

    Blocks of a projection are [out, columns] each, to be put below one another and transposed.
    Raises `BadInput` where one holds NaN or infinity: no model means them.
    """
    rows, *rest = weight.shape
    if weight.kind == "vector":
        yield [_finite(source, part.name) for part in weight.parts]
        return
    step = max(CHUNK_VALUES // rest[0] // COLUMN_STEP, 1) * COLUMN_STEP
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        if weight.kind == "table":
            yield [_finite(source, weight.parts[0].name, span)]
        else:
            yield [_finite(source, part.name, columns=span) for part in weight.parts]


def _finite(
    source: TensorSource, name: str, rows: slice = ALL, columns: slice = ALL
) -> torch.Tensor:
    """A block of a checkpoint's tensor, every value of it looked at."""
    block = source.read(name, rows, columns)
    if not torch.stack(torch.aminmax(block)).isfinite().all():
        raise BadInput(
            f"{source.path}: {name} holds {int((~block.isfinite()).sum())} values that are NaN or "
            "infinite",
            "export a checkpoint that was saved before it diverged, or an undamaged copy",
        )
    return block
