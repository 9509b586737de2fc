"""TensorRT and TensorRT-RTX by name, and which dialect a release of theirs takes."""

from __future__ import annotations

from typing import Literal, get_args

from llx.precision import Compute

Runtime = Literal["trt", "trt-rtx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
# The first release with TensorScatter as KV-cache update, and with I/O at one address.
NATIVE_CACHE_SINCE = (10, 15)


def dialect_of_version(runtime: Runtime, version: tuple[int, ...], compute: Compute) -> str:
    """The dialect that a release builds, by its version (major, minor, …); RTX counts its own."""
    native = runtime == "trt-rtx" or version >= NATIVE_CACHE_SINCE
    return "standard" if native and compute != "fp32" else "primitive"
