"""A recording double of `llx.bench.cuda.Cuda`: no GPU is in it, and its times mean nothing.

The device's memory is memory of the host. What CUDA would only begin waits in a queue until
`synchronize`, so that an answer read too early, or an input overwritten too early, is a wrong one.
New memory is full of ones (as floats, not a number). Every address is checked when it is used: that
it is memory of the right side, still there, and large enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from llx.errors import LlxError

TOTAL = 2**30
ALIGNMENT = 256


class Misuse(AssertionError):
    """What a GPU would answer with a crash, or with silence."""


@dataclass(frozen=True)
class Op:
    """Something begun on the stream: its name, the bytes that it moves, what it does when due."""

    name: str
    count: int
    run: Callable[[], None] = field(repr=False)


class RecordingCuda:
    """The same methods as `Cuda`, and a record: `done` of what was carried out, in order."""

    streams: ClassVar[dict[int, RecordingCuda]] = {}
    _handles: ClassVar[itertools.count[int]] = itertools.count(1)
    capture_fails: ClassVar[LlxError | None] = None

    def __init__(self) -> None:
        self.stream = next(self._handles)
        self.streams[self.stream] = self
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.queue: list[Op] = []
        self.done: list[Op] = []
        self.launches = 0
        self.closed = False
        self._graphs: dict[int, list[Op]] = {}
        self._recording: list[Op] | None = None

    @property
    def capturing(self) -> bool:
        return self._recording is not None

    def begin(self, name: str, count: int, run: Callable[[], None]) -> None:
        assert not self.closed
        (self.queue if self._recording is None else self._recording).append(Op(name, count, run))

    def span(self, place: dict[int, np.ndarray], address: int, count: int) -> np.ndarray:
        """So many bytes from an address on, of the device's or the host's memory."""
        for start, block in place.items():
            if start <= address and address + count <= start + len(block):
                return block[address - start : address - start + count]
        raise Misuse(f"{count} bytes at {address:#x} are not memory of that side, or no longer")

    def on_device(self, address: int, count: int) -> np.ndarray:
        return self.span(self.device, address, count)

    def on_host(self, array: np.ndarray) -> np.ndarray:
        if not array.flags.c_contiguous:
            raise Misuse("a copy of what is not contiguous")
        return self.span(self.host, array.ctypes.data, array.nbytes)

    def allocate(self, count: int) -> int:
        block = _aligned(count)
        self.device[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self.device[address]

    def pinned(self, size: int, dtype: type[np.generic]) -> np.ndarray:
        block = _aligned(max(1, size * np.dtype(dtype).itemsize))
        self.host[block.ctypes.data] = block
        return block[: size * np.dtype(dtype).itemsize].view(dtype)

    def unpin(self, array: np.ndarray) -> None:
        del self.host[array.ctypes.data]

    def clear(self, address: int, count: int) -> None:
        self.begin("clear", count, lambda: self.on_device(address, count).fill(0))

    def to_device(self, address: int, array: np.ndarray) -> None:
        def run() -> None:
            self.on_device(address, array.nbytes)[:] = self.on_host(array)

        self.begin("to_device", array.nbytes, run)

    def to_host(self, array: np.ndarray, address: int) -> None:
        def run() -> None:
            self.on_host(array)[:] = self.on_device(address, array.nbytes)

        self.begin("to_host", array.nbytes, run)

    def copy_lines(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, lines: int
    ) -> None:
        if width > min(target_pitch, source_pitch):
            raise Misuse("lines wider than their pitch")

        def run() -> None:
            for i in range(lines):
                part = self.on_device(source + i * source_pitch, width)
                self.on_device(target + i * target_pitch, width)[:] = part

        self.begin("copy_lines", width * lines, run)

    def synchronize(self) -> None:
        if self.capturing:
            raise Misuse("a stream that is being captured cannot be waited for")
        while self.queue:
            op = self.queue.pop(0)
            op.run()
            self.done.append(op)

    def capture(self, work: Callable[[], None]) -> int:
        if self.queue:
            raise Misuse("captured while work is under way")
        self._recording = []
        try:
            work()
            if self.capture_fails:
                raise self.capture_fails
            graph = next(self._handles)
            self._graphs[graph] = self._recording
        finally:
            self._recording = None
        return graph

    def launch(self, graph: int) -> None:
        self.launches += 1
        self.queue.extend(self._graphs[graph])

    def free_bytes(self) -> int:
        return TOTAL - sum(map(len, self.device.values()))

    def close(self) -> None:
        self.synchronize()
        for kept in (self.device, self.host, self._graphs):
            kept.clear()
        del self.streams[self.stream]
        self.closed = True


def _aligned(count: int) -> Any:
    """So many bytes of ones, at an address that TensorRT takes."""
    block = np.full(count + ALIGNMENT, 0xFF, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + count]
