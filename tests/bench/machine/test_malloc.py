"""What a library frees while a model is loaded goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from llx.bench.machine.malloc import given_back

SIZE = 8 << 20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc here"
)
def test_what_is_freed_within_it_is_not_kept():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def taken_and_freed():
        """Bytes that stay when four blocks are freed: as many as the heap may keep."""
        before = resident_bytes()
        blocks = [libc.malloc(SIZE) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, SIZE)
        for block in blocks:
            libc.free(block)
        return resident_bytes() - before

    with given_back():
        pass  # afterwards thresholds are those of a process that has freed blocks of 32 MiB
    assert taken_and_freed() > 2 * SIZE
    with given_back():
        assert taken_and_freed() < SIZE
