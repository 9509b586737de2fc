"""Damage for files: every value by values of other types, cuts, flipped bytes."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import re
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


# Numbers that lengths, counts and offsets break at.
EDGES = (
    *(0, 1, 2**7 - 1, 2**7, 2**8, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**32, 2**40, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)


def mutated(data: bytes, dice: random.Random, other: bytes = b"") -> tuple[str, bytes]:
    """A file after one to three changes anywhere in it, and what they were.

    Bits flipped, numbers of each width put at the edges, pieces cut out, doubled, swapped, zeroed,
    moved, and spliced with another file of the kind. Text has its own: see `mutated_text`.
    """
    words = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        what, data = dice.choice(BINARY)(data, dice, other or data)
        words.append(what)
    return ", ".join(words), data


def _flip(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    at, bit = _place(data, dice), dice.randrange(8)
    changed = bytearray(data)
    if changed:
        changed[at] ^= 1 << bit
    return f"bit {bit} of {at} flipped", bytes(changed)


def _number(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    width, order = dice.choice((1, 2, 4, 8)), dice.choice(("little", "little", "big"))
    at, value = _place(data, dice), dice.choice(EDGES) % 2 ** (8 * width)
    made = value.to_bytes(width, order)  # type: ignore[arg-type]
    return f"{value} of {width} bytes at {at}", data[:at] + made + data[at + width :]


def _varint(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    """A number as protobuf writes it."""
    at, left, made = _place(data, dice), dice.choice(EDGES), bytearray()
    value = left
    while left > 127:
        made.append(left & 127 | 128)
        left >>= 7
    made.append(left)
    return f"varint {value} at {at}", data[:at] + bytes(made) + data[at + 1 :]


def _cut(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    start, end = _span(data, dice)
    return f"{start}…{end} cut out", data[:start] + data[end:]


def _double(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    start, end = _span(data, dice)
    return f"{start}…{end} doubled", data[:end] + data[start:end] + data[end:]


def _swap(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    start, end = _span(data, dice)
    middle = (start + end) // 2
    return (
        f"halves of {start}…{end} swapped",
        data[:start] + data[middle:end] + data[start:middle] + data[end:],
    )


def _fill(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    start, end = _span(data, dice)
    byte = dice.choice((0, 0xFF, 0x7F, 0x80, ord('"'), ord("[")))
    return f"{start}…{end} is {byte:#x}", data[:start] + bytes([byte]) * (end - start) + data[end:]


def _splice(data: bytes, dice: random.Random, other: bytes) -> tuple[str, bytes]:
    at, there = _place(data, dice), _place(other, dice)
    return f"{at} goes on as {there}", data[:at] + other[there:]


def _insert(data: bytes, dice: random.Random, other: bytes) -> tuple[str, bytes]:
    at, (start, end) = _place(data, dice), _span(other, dice)
    return f"{start}…{end} again at {at}", data[:at] + other[start:end] + data[at:]


def _place(data: bytes, dice: random.Random) -> int:
    """Anywhere, and as often near one of the ends, where headers and directories are."""
    size = len(data)
    if not size:
        return 0
    near = min(size, 1 << dice.randrange(3, 13))
    return dice.choice(
        (dice.randrange(size), dice.randrange(near), size - 1 - dice.randrange(near))
    )


def _span(data: bytes, dice: random.Random) -> tuple[int, int]:
    start = _place(data, dice)
    return start, min(len(data), start + (1 << dice.randrange(12)))


BINARY = (_flip, _flip, _number, _number, _varint, _cut, _double, _swap, _fill, _splice, _insert)


def mutated_text(data: bytes, dice: random.Random, other: bytes = b"") -> tuple[str, bytes]:
    """A file of text after some changes: numbers at the edges, words doubled, swapped, nested."""
    words = []
    for _ in range(dice.choice((1, 1, 2, 3))):
        what, data = dice.choice((*TEXTUAL, _cut, _double, _swap, _splice, _insert, _flip))(
            data, dice, other or data
        )
        words.append(what)
    return ", ".join(words), data


def _digits(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", data))
    if not found:
        return "nothing", data
    match = dice.choice(found)
    number = dice.choice(
        (*EDGES, *(-edge for edge in EDGES), "1e400", "-1e400", "NaN", "Infinity", "0.1", 10**30)
    )
    at = match.start()
    return f"{number} at {at}", data[:at] + str(number).encode() + data[match.end() :]


def _word(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    """One quoted word instead of another."""
    found = list(re.finditer(rb'"[^"\n]{0,200}"', data))
    if not found:
        return "nothing", data
    match, instead = dice.choice(found), dice.choice(found)
    made = dice.choice((instead[0], b'"' + b"a" * 10**5 + b'"', b'"\\ud800"', b'"\\u0000"', b'""'))
    at = match.start()
    return f"{made[:20]!r} at {at}", data[:at] + made + data[match.end() :]


def _deep(data: bytes, dice: random.Random, _: bytes) -> tuple[str, bytes]:
    at, deep = _place(data, dice), dice.choice((100, 2000, 10**5))
    opened, closed = dice.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"{{", b"}}")))
    return f"{deep} of {opened!r} at {at}", data[:at] + opened * deep + closed * deep + data[at:]


TEXTUAL = (_digits, _digits, _word, _word, _deep)
