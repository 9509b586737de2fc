"""Damaged files of every format: read rightly or refused in one line, and called what they are."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import (
    TINY,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)

TENSORS = random_tensors(TINY)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


def old_bin(folder):
    """PyTorch's file as releases before 1.6 wrote it."""
    write_checkpoint(folder, TINY, TENSORS, tokenizer=False)
    (folder / "model.safetensors").unlink()
    torch.save(TENSORS, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return folder


FORMATS = {
    "safetensors": lambda folder: write_checkpoint(folder, TINY, TENSORS, tokenizer=False),
    "bin": lambda folder: write_bin(folder, TINY, TENSORS),
    "old bin": old_bin,
    "pth": lambda folder: write_meta(folder, TINY, TENSORS),
    "gguf": lambda folder: write_gguf(folder / "tiny.gguf", TINY, TENSORS).parent,
}


def weights_in(folder):
    endings = (".safetensors", ".bin", ".pth", ".gguf")
    return min(path for path in folder.iterdir() if path.suffix in endings)


def told(folder):
    """What a folder is refused with, or None where all of it was read, as values."""
    try:
        source = open_source(folder, TINY)
        check_coverage(source)
        values = sum(source.read(name).numel() for name in source.tensors)
    except BadInput as error:
        return str(error)
    assert values >= TINY.parameters
    return None


@dataclass(frozen=True)
class Whole:
    """A folder of a format, the file of its weights, and that file's bytes."""

    place: Path
    file: Path
    bytes: bytes = field(repr=False)

    def told_of(self, content):
        """What the folder is refused with where its file holds something else."""
        self.file.write_bytes(content)
        try:
            return told(self.place)
        finally:
            self.file.write_bytes(self.bytes)


@pytest.fixture(scope="module", params=FORMATS)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    FORMATS[request.param](folder)
    file = weights_in(folder)
    return Whole(folder, file, file.read_bytes())


WRONG = {
    "a Git LFS pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html>401</html>", "is a web page", "login"),
    "nothing": (b"", "it is empty", "copy it again"),
    "JSON": (b'{"error": "not found"}', "is not a whole", "copy it again"),
    "random bytes": (bytes(range(1, 200)), "is not a whole", "copy it again"),
}


@pytest.mark.parametrize(("content", "what", "remedy"), WRONG.values(), ids=WRONG)
def test_what_lies_in_the_place_of_weights_is_called_what_it_is(whole, content, what, remedy):
    said = whole.told_of(content)
    assert what in said
    assert remedy in said
    assert whole.file.name in said


def test_the_first_half_of_a_file_is_not_taken_for_it(whole):
    for keep in (len(whole.bytes) // 2, len(whole.bytes) - 1, 300, 20):
        assert "again" in whole.told_of(whole.bytes[:keep])


def test_a_file_of_another_format_than_its_name_says_is_called_what_it_is(tmp_path):
    write_checkpoint(tmp_path, TINY, TENSORS)
    torch.save(TENSORS, tmp_path / "model.safetensors")
    assert "begins as a file of PyTorch does" in told(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_gguf(tmp_path / "model.safetensors", TINY, TENSORS)
    assert "begins as a file of GGUF does" in told(tmp_path)


# Where, from the file's beginning or (below 0) from its end; what is done there, and with what.
EDITS = st.lists(
    st.tuples(
        st.integers(-3000, 3000),
        st.sampled_from(["byte", "number", "out", "off"]),
        st.integers(0, 2**64 - 1),
    ),
    min_size=1,
    max_size=4,
)


def damaged(whole, edits):
    """Bytes of a file changed, cut out or cut off, mostly where its header is."""
    broken = bytearray(whole)
    for where, kind, value in edits:
        at = where % max(len(broken), 1)
        if kind == "byte":
            broken[at : at + 1] = bytes([value % 256])
        elif kind == "number":
            broken[at : at + 8] = struct.pack("<Q", value)
        elif kind == "out":
            del broken[at : at + value % 40 + 1]
        else:
            del broken[at:]
    return bytes(broken)


def require_read_or_refused(whole, edits):
    said = whole.told_of(damaged(whole.bytes, edits))
    assert said is None or "\n" not in said


@given(edits=EDITS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_that_was_damaged_is_read_or_refused(whole, edits):
    require_read_or_refused(whole, edits)


@pytest.mark.slow
@given(edits=EDITS)
@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_many_damaged_files_are_read_or_refused(whole, edits):
    require_read_or_refused(whole, edits)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_safetensors_header_that_was_retyped_is_refused_or_means_the_same_bytes(tmp_path, data):
    """Dtypes, shapes and places of other tensors, changed one at a time."""
    folder = tmp_path / "model"
    if not folder.exists():
        write_checkpoint(folder, TINY, TENSORS, tokenizer=False)
        (tmp_path / "whole").write_bytes((folder / "model.safetensors").read_bytes())
    whole = (tmp_path / "whole").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    number = st.integers(-1, 5000) | st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, 0.5])
    header[name] |= data.draw(
        st.fixed_dictionaries({"dtype": st.sampled_from(["F16", "BF16", "F64", "I32", "F8_E4M3"])})
        | st.fixed_dictionaries({"shape": st.lists(number, max_size=3)})
        | st.fixed_dictionaries({"data_offsets": st.lists(number, min_size=1, max_size=3)})
    )
    text = json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    try:
        source = open_source(folder)
        check_coverage(source)
    except BadInput:
        return
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())
