"""The C library's allocator, told to give back what is freed while a model is loaded."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and the other, of <malloc.h>
FROM, USUAL = 1 << 20, 32 << 20


@contextmanager
def given_back() -> Iterator[None]:
    """Within it, memory of a MiB or more goes back to the system as it is freed.

    glibc keeps what is freed up to 32 MiB for whoever asks next. A library that makes one copy of
    the weights after another, of other sizes, then holds twice of them: 1,927 MB instead of 1,495
    for 1.1 billion weights of 8 bits. Afterwards glibc keeps as much as it would have come to keep.
    Without glibc nothing happens.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, FROM)
    try:
        yield
    finally:
        libc.mallopt(MMAP_THRESHOLD, USUAL)
        libc.mallopt(TRIM_THRESHOLD, 2 * USUAL)  # as glibc itself would have it with the other
        libc.malloc_trim(0)
