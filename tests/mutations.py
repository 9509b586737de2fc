"""Damage for files: every value by values of other types, cuts, flipped bytes."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

# Of each type one, the extremes of numbers, and what JSON does not have but Python's reader takes.
OTHERS: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**9, 10**30, 0.5, math.nan),
    *("", "x", "\ud800", [], [1], {}, {"a": 1}),
)
LONG = 12  # entries of one type in an object, such as a vocabulary: two stand for all


def damaged_values(value: Any, each: int = len(OTHERS)) -> Iterator[tuple[str, Any]]:
    """What was done, and the whole value with one place replaced or removed.

    Every place is replaced by `each` of the others, in turns.
    """
    others = itertools.cycle(OTHERS)
    for path in places(value):
        where = "/".join(map(str, path))
        for other in itertools.islice(others, each):
            yield f"{where} = {other!r:.20}", _with(value, path, other)
        if path:
            yield f"{where} gone", _without(value, path)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value; of entries alike, the first and last."""
    yield path
    if not isinstance(value, (dict, list)):
        return
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in [keys[0], keys[-1]] if len(keys) > 2 and _alike(value) else keys:
        yield from places(value[key], (*path, key))


def _alike(value: dict[str, Any] | list[Any]) -> bool:
    """Whether entries are all of one kind: what holds for one then holds for the others."""
    entries = list(value.values()) if isinstance(value, dict) else value
    if all(isinstance(entry, dict) for entry in entries):
        return len({tuple(entry) for entry in entries}) == 1
    few = isinstance(value, dict) and len(value) <= LONG
    return not few and len({type(entry) for entry in entries}) == 1


def _with(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other
    return whole


def _without(value: Any, path: tuple[Any, ...]) -> Any:
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return whole


def damaged_json(data: bytes, each: int = len(OTHERS)) -> Iterator[tuple[str, bytes]]:
    """A JSON file with each value replaced, and as what is no JSON of its kind."""
    for what, value in damaged_values(json.loads(data), each):
        yield what, json.dumps(value).encode()
    yield from damaged_text(data)


def damaged_text(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file of text: cut, in other encodings, or another file altogether."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    yield "empty", b""
    yield "half", data[: len(data) // 2]
    yield "all but the last byte", data[:-1]
    yield "a byte-order mark before it", b"\xef\xbb\xbf" + data
    yield "UTF-16", data.decode().encode("utf-16")
    yield "Latin-1", "é".encode("latin-1") + data
    yield "zeros", bytes(100)
    yield "a Git LFS pointer", pointer
    yield "a web page", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "10,000 brackets", b"[" * 10_000
    yield "10,000 objects", b'{"a":' * 10_000


def damaged_bytes(
    data: bytes, most: int = 30, reach: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """A binary file: cut at places spread over its first `reach` bytes, and with bytes flipped."""
    end = min(reach or len(data), len(data))
    spread = sorted({int(end * (i / most) ** 2) for i in range(most)})
    for at in spread:
        yield f"cut at {at}", data[:at]
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[at] ^= mask
            yield f"byte {at} flipped by {mask:#x}", bytes(flipped)
    yield "cut before the last byte", data[:-1]
    yield "a byte more", data + b"\0"
    yield from ((f"{name} in its place", made) for name, made in damaged_text(b"x"))
