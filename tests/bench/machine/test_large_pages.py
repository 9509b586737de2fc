"""Large pages under memory that was allocated before: what it holds and takes stays the same."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from llx.bench.machine import large_pages

SIZE = 2 << 20
COUNT = 6
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or large_pages._size() != SIZE, reason="no large pages of 2 MiB here"
)


@pytest.fixture
def memory():
    """Six blocks, the first four written whole, of the fifth one page, of the last none."""
    held = mmap.mmap(-1, (COUNT + 1) * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    first = -(-address // SIZE) * SIZE
    values = np.frombuffer(held, np.uint8)[first - address :][: COUNT * SIZE]
    values[: 4 * SIZE] = np.random.default_rng(0).integers(0, 256, 4 * SIZE, dtype=np.uint8)
    values[4 * SIZE] = 1
    held.madvise(mmap.MADV_HUGEPAGE)  # what forbade them was the test's, for small pages
    return values, range(first, first + COUNT * SIZE, SIZE)


def in_memory(first, what):
    """kB of a kind in the mapping that an address lies in."""
    text = Path("/proc/self/smaps").read_text()
    found = 0
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)[1:]:
        start, end = (int(x, 16) for x in part.split()[0].split("-"))
        if start < first + COUNT * SIZE and end > first:
            found += int(re.search(rf"{what}: +(\d+)", part)[1])
    return found


def test_whole_blocks_are_moved_and_hold_what_they_held(memory):
    values, addresses = memory
    before, resident = values[: 4 * SIZE].copy(), in_memory(addresses[0], "Rss")
    assert set(addresses) <= large_pages.blocks()
    moved, could = large_pages.enlarge(set(addresses))
    assert could == 4 * SIZE
    assert in_memory(addresses[0], "AnonHugePages") * 1024 == moved  # as many as there were left
    assert in_memory(addresses[0], "Rss") == resident
    assert np.array_equal(values[: 4 * SIZE], before)
    assert not values[4 * SIZE + 1 :].any()


def test_a_system_that_wants_none_is_left_alone(tmp_path, monkeypatch):
    for enabled, size in (("always madvise [never]", "2097152"), ("always [madvise]", "many")):
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text(size)
        monkeypatch.setattr(large_pages, "SETTINGS", tmp_path)
        assert large_pages.blocks() == set()
    monkeypatch.setattr(large_pages, "SETTINGS", tmp_path / "none")
    assert large_pages.blocks() == set()
    assert large_pages.enlarge(set()) == (0, 0)
