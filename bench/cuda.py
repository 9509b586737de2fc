"""The CUDA runtime as far as a session needs it: memory, copies, one stream, graphs. No PyTorch.

Polygraphy finds the library; the calls are made here, by the signatures of cuda_runtime_api.h, all
of which CUDA 11.4 (JetPack 5.1) has already.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.errors import EXIT_BUG, Lacking, LlxError

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (POINTER(c_void_p), c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaStreamCreate": (POINTER(c_void_p),),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaMemcpy2DAsync": (
        *(c_void_p, c_size_t, c_void_p, c_size_t),
        *(c_size_t, c_size_t, c_int, c_void_p),
    ),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    # cudaGraphInstantiate has other arguments in CUDA 11 than in 12; this one is the same in both.
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGetLastError": (),
}
# Of enum cudaMemcpyKind, enum cudaStreamCaptureMode and enum cudaError.
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
CAPTURE_THREAD_LOCAL = 1
OUT_OF_MEMORY, OLD_DRIVER, NO_DEVICE = 2, 35, 100


class CudaError(LlxError):
    """A CUDA call failed that should not have."""

    exit_code = EXIT_BUG


class Cuda:
    """One stream, and all the memory that was taken for it. Addresses are plain numbers.

    Copies and launches are only begun here: they take effect in order, by `synchronize` at the
    latest. Raises `Lacking` where memory, driver or GPU is missing, else `CudaError`.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._device: set[int] = set()
        self._host: set[int] = set()
        self._graphs: set[int] = set()
        self.stream = self._new("cudaStreamCreate")

    def allocate(self, count: int) -> int:
        """The address of so many bytes of the device, aligned to 256."""
        address = self._new("cudaMalloc", count)
        self._device.add(address)
        return address

    def free(self, address: int) -> None:
        """Give memory of the device back."""
        self._device.remove(address)
        self._call("cudaFree", address)

    def pinned(self, size: int, dtype: type[np.generic]) -> NDArray[Any]:
        """An array on the host that the device copies from and to by itself; see `unpin`."""
        count = max(1, size * np.dtype(dtype).itemsize)
        address = self._new("cudaMallocHost", count)
        self._host.add(address)
        buffer = memoryview((ctypes.c_char * count).from_address(address))
        array: NDArray[Any] = np.frombuffer(buffer, dtype, size)
        return array

    def unpin(self, array: NDArray[Any]) -> None:
        """Give an array of `pinned` back: no view of it may be read any more."""
        address = array.ctypes.data
        self._host.remove(address)
        self._call("cudaFreeHost", address)

    def clear(self, address: int, count: int) -> None:
        """Set so many bytes of the device to zero."""
        self._call("cudaMemsetAsync", address, 0, count, self.stream)

    def to_device(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous part of a pinned array to the device."""
        source = array.ctypes.data
        self._call("cudaMemcpyAsync", address, source, array.nbytes, HOST_TO_DEVICE, self.stream)

    def to_host(self, array: NDArray[Any], address: int) -> None:
        """Fill a contiguous part of a pinned array from the device."""
        target = array.ctypes.data
        self._call("cudaMemcpyAsync", target, address, array.nbytes, DEVICE_TO_HOST, self.stream)

    def copy_lines(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, lines: int
    ) -> None:
        """Copy lines of `width` bytes within the device, whose starts lie a pitch apart."""
        pitches = (target, target_pitch, source, source_pitch)
        self._call("cudaMemcpy2DAsync", *pitches, width, lines, DEVICE_TO_DEVICE, self.stream)

    def synchronize(self) -> None:
        """Wait until all that was begun is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> int:
        """A graph of what `work` begins, which is not carried out now. See `launch`."""
        graph, executable = c_void_p(), c_void_p()
        self._call("cudaStreamBeginCapture", self.stream, CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # The stream would stay in capture, and the error be found by whoever asks next.
            self._library.cudaStreamEndCapture(self.stream, byref(graph))
            self._library.cudaGetLastError()
            raise
        self._call("cudaStreamEndCapture", self.stream, byref(graph))
        try:
            self._call("cudaGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        assert executable.value is not None
        self._graphs.add(executable.value)
        return executable.value

    def launch(self, graph: int) -> None:
        """Begin all that was captured, with whatever its addresses hold by then."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def free_bytes(self) -> int:
        """What the device has left, for whoever asks."""
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", byref(free), byref(total))
        return free.value

    def close(self) -> None:
        """Wait, and give everything back."""
        self.synchronize()
        for graph in self._graphs:
            self._call("cudaGraphExecDestroy", graph)
        for address in self._device:
            self._call("cudaFree", address)
        for address in self._host:
            self._call("cudaFreeHost", address)
        for kept in (self._graphs, self._device, self._host):
            kept.clear()
        self._call("cudaStreamDestroy", self.stream)

    def _new(self, name: str, *arguments: int) -> int:
        """Call what hands a pointer out by its first argument."""
        pointer = c_void_p()
        self._call(name, byref(pointer), *arguments)
        assert pointer.value is not None
        return pointer.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        self._library.cudaGetLastError()
        said = self._library.cudaGetErrorString(status).decode()
        if status == OUT_OF_MEMORY:
            raise Lacking(
                f"the GPU has too little memory left ({name}: {said})",
                "choose a smaller -b, or an engine with a smaller --context or --max-prefill",
            )
        if status in (OLD_DRIVER, NO_DEVICE):
            raise Lacking(
                f"CUDA does not run here ({name}: {said})",
                "see whether `nvidia-smi` shows a GPU; a newer driver may be needed",
            )
        raise CudaError(
            f"{name} failed: {said}", "report it with the file that `llx doctor --bundle` writes"
        )


@functools.cache
def _library() -> Any:
    """libcudart, with the signatures of what is called. `Lacking` where it is not found."""
    try:
        from polygraphy.cuda import wrapper
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise Lacking("the CUDA runtime is found by polygraphy", "pip install polygraphy") from None
    _look_in_wheels()
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    try:
        library = wrapper().handle
    except OSError as error:
        raise Lacking(
            f"the CUDA runtime is not found ({error})",
            "pip install nvidia-cuda-runtime-cu12, or add its folder to LD_LIBRARY_PATH",
        ) from None
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (c_int,), c_char_p
    return library


def _look_in_wheels() -> None:
    """Add the folders of CUDA 13's wheels, which Polygraphy 0.53 does not look in."""
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    found = [str(file.parent) for place in places or () for file in _cudarts(Path(place))]
    if found:
        known = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(([known] if known else []) + found)


def _cudarts(place: Path) -> list[Path]:
    return sorted(place.glob("cu*/lib/libcudart.so*"))
