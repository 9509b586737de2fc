"""Files that `torch.save` wrote, of either format: where each tensor's values lie in them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llx.exporter.sources.unpickle import BYTES, Damaged, Storage, load, loads

MOST_PICKLE_BYTES = 64 << 20  # 1000 tensors take some 200 kB
LOCAL_HEADER = 30  # bytes, before the name and the extra field of an entry
ENCRYPTED = 0x1
# The numbers that a file from before PyTorch 1.6 begins with.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class Contents:
    """What a file holds, and of each storage, by its key, where it begins and how long it is."""

    state: Any
    places: dict[str, tuple[int, int]]


def contents(path: Path) -> Contents:
    """What a file holds; no value of a tensor is read.

    Raises `Damaged`, `zipfile.BadZipFile`, or what Python's unpickler raises.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
        file.seek(0)
        return _archived(file, size) if is_archive else _of_before(file, size)


def _archived(file: IO[bytes], size: int) -> Contents:
    """A zip archive: `data.pkl`, and a file below `data/` for each storage."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise Damaged("two parts of it have one name")
    if any(entry.compress_type or entry.compress_size != entry.file_size for entry in entries):
        raise Damaged("it is compressed")
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise Damaged("it is encrypted")
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Damaged("it holds no data.pkl, or several")
    places = {entry.filename: _place(file, size, entry) for entry in entries}
    prefix = pickles[0].removesuffix("data.pkl")
    if _part(file, places.get(f"{prefix}byteorder", (0, 0))) not in (b"", b"little"):
        raise Damaged("its values are not in little-endian order")
    state = loads(_part(file, places[pickles[0]]))
    begin = f"{prefix}data/"
    storages = {n.removeprefix(begin): at for n, at in places.items() if n.startswith(begin)}
    return Contents(state, storages)


def _place(file: IO[bytes], size: int, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an entry lie, by its own header, and how many they are."""
    if not 0 <= entry.header_offset <= size - LOCAL_HEADER:
        raise Damaged("a part of it lies outside of it")
    file.seek(entry.header_offset)
    header = file.read(LOCAL_HEADER)
    lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
    start = entry.header_offset + LOCAL_HEADER + sum(lengths)
    if not header.startswith(b"PK\x03\x04") or start + entry.file_size > size:
        raise Damaged("a part of it is not where it says")
    return start, entry.file_size


def _part(file: IO[bytes], place: tuple[int, int]) -> bytes:
    start, size = place
    if size > MOST_PICKLE_BYTES:
        raise Damaged("its data.pkl is absurdly large")
    file.seek(start)
    return file.read(size)


def _of_before(file: IO[bytes], size: int) -> Contents:
    """The format of before PyTorch 1.6: pickles one after another, then each storage."""
    magic, protocol, system = (load(file, size) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL or not isinstance(system, dict):
        raise Damaged("it does not begin as PyTorch has it")
    if system.get("little_endian") is not True:
        raise Damaged("its values are not in little-endian order")
    state, keys = load(file, size), load(file, size)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damaged("it has no list of its storages")
    widths = {one.key: BYTES[one.dtype] for one in storages_of(state)}
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        length = count * widths.get(key, 0)
        start = file.tell()
        if key in places or key not in widths or count < 0 or start + length > size:
            raise Damaged("a storage does not lie within it")
        places[key] = start, length
        file.seek(start + length)
    return Contents(state, places)


def storages_of(state: Any) -> list[Storage]:
    """The storages that anything in a state looks at."""
    found, seen, open_ = [], set(), [state]
    while open_:
        value = open_.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Storage):
            found.append(value)
        elif isinstance(value, dict):
            open_ += value.values()
        elif isinstance(value, (list, tuple)):
            open_ += value
        elif hasattr(value, "storage"):
            open_.append(value.storage)
    return found
