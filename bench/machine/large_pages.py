"""Large pages for weights that every step reads whole: without them the TLB misses all the time.

Linux gives a large page by itself only where it is set to `always`, and most distributions set it
to `madvise`. What a library has allocated is asked for afterwards: MADV_COLLAPSE, since Linux 6.1.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

COLLAPSE = 25  # MADV_COLLAPSE, which Python's `mmap` does not name
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
ENTRY = 8  # bytes of /proc/self/pagemap for a page, whose highest bit says that it is in memory


def blocks() -> set[int]:
    """Addresses of this process' own memory that a large page could hold; none where there is none.

    A block is as long as a large page, and begins at a multiple of it.
    """
    size = _size()
    if not size:
        return set()
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {at for line in lines for at in _blocks_of(line.split(), size)}


def _size() -> int:
    """Bytes of a large page, or 0 where this system has none or wants none."""
    with suppress(OSError, ValueError):
        if "[never]" not in (SETTINGS / "enabled").read_text():
            return int((SETTINGS / "hpage_pmd_size").read_text())
    return 0


def _blocks_of(mapping: list[str], size: int) -> Iterator[int]:
    """Of a line of /proc/self/maps: range, permissions, offset, device, inode, perhaps a name."""
    if mapping[1] != "rw-p" or mapping[5:] not in ([], ["[heap]"]):
        return
    first, end = (int(address, 16) for address in mapping[0].split("-"))
    yield from range(-(-first // size) * size, end // size * size - size + 1, size)


def enlarge(wanted: set[int]) -> tuple[int, int]:
    """Move blocks into large pages; return how many bytes were, and how many could have been.

    A block that is not in memory whole stays as it is, so no memory is taken by this. The system
    may have no large page left, or not be asked which pages are in memory.
    """
    if not wanted:
        return 0, 0
    size = _size()
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    moved = whole = 0
    with suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pages:
        for at in sorted(wanted):
            if _is_whole(pages.fileno(), at, size):
                whole += 1
                moved += libc.madvise(at, size, COLLAPSE) == 0
    return moved * size, whole * size


def _is_whole(pages: int, at: int, size: int) -> bool:
    count = size // mmap.PAGESIZE
    entries = os.pread(pages, count * ENTRY, at // mmap.PAGESIZE * ENTRY)
    highest = entries[ENTRY - 1 :: ENTRY]  # little-endian
    return len(highest) == count and all(byte & 0x80 for byte in highest)
