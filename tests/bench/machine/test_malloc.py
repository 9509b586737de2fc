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
        """Bytes that stay when eight blocks are freed below one that is still in use."""
        before = resident_bytes()
        blocks = [libc.malloc(SIZE) for _ in range(8)]
        last = libc.malloc(64 << 10)  # on top of the heap, if the blocks are of it
        for block in blocks:
            ctypes.memset(block, 1, SIZE)
        for block in blocks:
            libc.free(block)
        kept = resident_bytes() - before
        libc.free(last)
        return kept

    libc.mallopt(-3, 32 << 20)  # as a process that has freed such blocks has it
    assert taken_and_freed() > 4 * SIZE
    with given_back():
        assert taken_and_freed() < SIZE
