"""A GGUF file's header: counts that lie, another byte order, other versions, cut off anywhere."""

from __future__ import annotations

import struct
import tracemalloc

import gguf
import pytest

from llx.errors import BadInput
from llx.exporter.sources import open_source
from tests.checkpoints import TINY, dice, random_tensors, write_gguf
from tests.exporter.sources.opened import opened

TENSORS = random_tensors(TINY)


def header(tensors=0, keys=0, version=3, after=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + after


def key(kind, value, name=b"a"):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def array(kind, count, values=b""):
    return struct.pack("<IQ", kind, count) + values


LIES = {
    "2^60 tensors": header(tensors=2**60),
    "2^60 keys": header(keys=2**60),
    "many tensors": header(tensors=60000),
    "a name of 2^60 bytes": header(keys=1, after=struct.pack("<Q", 2**60)),
    "a text of 2^60 bytes": header(keys=1, after=key(8, struct.pack("<Q", 2**60))),
    "2^60 bytes in an array": header(keys=1, after=key(9, array(0, 2**60))),
    "2^60 texts in an array": header(keys=1, after=key(9, array(8, 2**60))),
    "2^60 arrays in an array": header(keys=1, after=key(9, array(9, 2**60))),
    "an array past the end": header(keys=1, after=key(9, array(4, 1000))),
    "two arrays of a million": header(keys=2, after=key(9, array(0, 1 << 20, bytes(1 << 20))) * 2),
    "arrays in arrays in arrays": header(keys=1, after=key(9, array(9, 1) * 50)),
    "a type that is not known": header(keys=1, after=key(77, bytes(8))),
    "many dimensions": header(tensors=1, after=struct.pack("<Q1sI", 1, b"a", 2**31)),
    "three million values": header(keys=1, after=key(9, array(0, 3 << 20, bytes(3 << 20)))),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_counts_that_lie_end_at_once(tmp_path, data):
    (tmp_path / "a.gguf").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(BadInput, match="not a whole GGUF file"):
        open_source(tmp_path / "a.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_big_endian_file_is_refused_as_one(tmp_path, monkeypatch, kind):
    class Big(gguf.GGUFWriter):
        def __init__(self, path, arch):
            super().__init__(path, arch, endianess=gguf.GGUFEndian.BIG)

    monkeypatch.setattr(gguf, "GGUFWriter", Big)
    file = write_gguf(tmp_path / "big.gguf", TINY, TENSORS, kind)
    with pytest.raises(BadInput, match=r"big-endian GGUF file.*gguf-convert-endian"):
        open_source(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (header(version=1), "of GGUF version 1"),
        (header(version=4), "of GGUF version 4"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"<!doctype html>", "is a web page, not a whole GGUF file"),
        (b"PK\x03\x04" + bytes(100), "begins as a file of PyTorch does"),
        (b"", "not a whole GGUF file"),
    ],
)
def test_what_is_no_gguf_file_is_named(tmp_path, data, says):
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(BadInput, match=says):
        open_source(tmp_path / "a.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "a.gguf", TINY, TENSORS).read_bytes()


def test_any_bytes_of_the_header_changed_are_refused_or_harmless(tmp_path, whole):
    numbers = dice(7)
    for _ in range(100):
        at, count = int(numbers.integers(0, 1501)), int(numbers.integers(1, 9))
        changed = whole[:at] + numbers.bytes(count) + whole[at + count :]
        (tmp_path / "a.gguf").write_bytes(changed)
        opened(tmp_path / "a.gguf")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, whole):
    for keep in dice(8).integers(0, 3001, 50):
        (tmp_path / "a.gguf").write_bytes(whole[:keep])
        with pytest.raises(BadInput, match="not a whole GGUF file"):
            open_source(tmp_path / "a.gguf")
