"""A GGUF file's header, walked before a library reads it: counts are believed of no file.

The gguf package makes objects for whatever number of entries a header names, past the file's end
too, and so never ends on a damaged one. Layout: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from llx.errors import BadInput
from llx.typed import shown

# Far beyond what a LLaMA's file has: a vocabulary of 128k with its merges is half a million values.
MOST_ENTRIES = 1 << 16  # of keys, and of tensors
MOST_VALUES = 1 << 20  # in arrays, all together
MOST_NAME_BYTES = 1 << 16
MOST_TEXT_BYTES = 1 << 26
MOST_DIMENSIONS = 8

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, ARRAY = 8, 9


def require_readable(path: Path) -> None:
    """Raise `BadInput` for a byte order or version not read here, and `ValueError` for damage."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        header = _Header(data)
        magic, version = header.take("4s")[0], header.number("I")
        if magic != b"GGUF":
            raise ValueError(f"it begins with {shown(magic)}")
        if version and not version & 0xFFFF:
            raise BadInput(
                f"{path} is a big-endian GGUF file, and llx reads little-endian ones",
                "turn it round with `gguf-convert-endian FILE little`, of the gguf package",
            )
        if version not in (2, 3):
            raise BadInput(
                f"{path} is of GGUF version {version}, and llx reads 2 and 3",
                "convert the checkpoint again, with a llama.cpp of today",
            )
        header.walk()


class _Header:
    """A place in the file, moved on by what is read there."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._values = data, 0, 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Little-endian values at this place."""
        start = self._at
        self.skip(struct.calcsize("<" + form))
        return struct.unpack_from("<" + form, self._data, start)

    def number(self, form: str, most: int | None = None, what: str = "number") -> int:
        """One unsigned number, of at most `most`."""
        found = int(self.take(form)[0])
        if most is not None and found > most:
            raise ValueError(f"{found} is too large for a {what}")
        return found

    def skip(self, count: int) -> None:
        """Move on by so many bytes."""
        if count > len(self._data) - self._at:
            raise ValueError("it ends within its header")
        self._at += count

    def walk(self) -> None:
        """Through keys and tensors to the header's end."""
        tensors = self.number("Q", MOST_ENTRIES, "count of tensors")
        for _ in range(self.number("Q", MOST_ENTRIES, "count of keys")):
            self._name()
            self._value(self.number("I"))
        for _ in range(tensors):
            self._name()
            dimensions = self.number("I", MOST_DIMENSIONS, "number of dimensions")
            self.skip(8 * dimensions + 4 + 8)  # sizes, type, offset

    def _name(self) -> None:
        self.skip(self.number("Q", MOST_NAME_BYTES, "name's length"))

    def _value(self, kind: int, depth: int = 0) -> None:
        if kind == TEXT:
            self.skip(self.number("Q", MOST_TEXT_BYTES, "text's length"))
        elif kind == ARRAY and depth < 2:
            self._array(depth)
        elif kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        else:
            raise ValueError(f"it has a value of unknown type {kind}")

    def _array(self, depth: int) -> None:
        kind, count = self.number("I"), self.number("Q")
        self._values += count
        if self._values > MOST_VALUES:
            raise ValueError(f"its arrays have more than {MOST_VALUES} values")
        if kind in SCALAR_BYTES:
            self.skip(count * SCALAR_BYTES[kind])
            return
        for _ in range(count):
            self._value(kind, depth + 1)
