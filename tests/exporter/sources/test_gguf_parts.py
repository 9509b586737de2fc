"""GGUF files whole and in parts: every tensor as it was written, or a refusal; and hostile ones."""

from __future__ import annotations

import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import BIASED, TINY, random_tensors, write_gguf

TENSORS = random_tensors(TINY)


def cut(whole, folder, groups, named="m-{:05}-of-{:05}.gguf"):
    """A GGUF file in parts, as gguf-split writes them: the first has the fields."""
    reader = gguf.GGUFReader(whole)
    for number, group in enumerate(groups):
        writer = gguf.GGUFWriter(folder / named.format(number + 1, len(groups)), "llama")
        if number:
            writer.kv_data[0].pop("general.architecture", None)
        else:
            for key, field in reader.fields.items():
                if key.startswith("llama."):
                    writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(groups))
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors:
            if tensor.name in group:
                shape = [int(size) for size in reversed(tensor.shape)]
                writer.add_tensor(tensor.name, np.array(tensor.data).reshape(shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return sorted(folder.glob("*.gguf"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("whole") / "whole.gguf", TINY, TENSORS)


@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_parts_are_read_as_one_whichever_is_named(whole, tmp_path_factory, data):
    names = [tensor.name for tensor in gguf.GGUFReader(whole).tensors]
    count = data.draw(st.integers(2, 4))
    where = data.draw(st.lists(st.integers(0, count - 1), min_size=len(names), max_size=len(names)))
    groups = [[n for n, part in zip(names, where, strict=True) if part == i] for i in range(count)]
    folder = tmp_path_factory.mktemp("parts")
    files = cut(whole, folder, groups)
    for path in (folder, data.draw(st.sampled_from(files))):
        source = open_source(path)
        assert source.spec == TINY
        assert source.files == files
        check_coverage(source)
        assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())
    gone = data.draw(st.sampled_from(files))
    gone.unlink()
    for path in (folder, *folder.glob("*.gguf")):
        with pytest.raises(BadInput, match=f"{gone.name} is missing"):
            open_source(path)


def in_two(whole, folder):
    names = [tensor.name for tensor in gguf.GGUFReader(whole).tensors]
    return cut(whole, folder, [[n for n in names if n != "output.weight"], ["output.weight"]])


def test_a_model_is_not_tied_because_its_head_lies_in_another_part(whole, tmp_path):
    first, second = in_two(whole, tmp_path)
    second.rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(BadInput, match=r"m-00002-of-00002\.gguf is missing"):
        open_source(first)
    with pytest.raises(BadInput, match="one of 2 parts, and its name does not say which"):
        open_source(tmp_path / "elsewhere.gguf")


def test_a_part_by_its_name_alone_is_not_taken_for_a_tied_model(tmp_path):
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "lm_head.weight"}
    file = write_gguf(tmp_path / "m-00001-of-00002.gguf", replace(TINY, tied=True), tensors)
    with pytest.raises(BadInput, match=r"is called part 1 of 2 and holds no output\.weight"):
        open_source(file)
    file.rename(tmp_path / "m.gguf")
    assert open_source(tmp_path / "m.gguf").spec.tied


def test_parts_of_two_models_are_told_apart(whole, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, _ = in_two(whole, tmp_path / "a")
    names = [tensor.name for tensor in gguf.GGUFReader(whole).tensors]
    other = cut(whole, tmp_path / "b", [names[:3], names[3:], []])
    other[1].rename(tmp_path / "a" / "m-00002-of-00002.gguf")
    with pytest.raises(BadInput, match="is no part of the same 2"):
        open_source(first)


def test_a_part_that_comes_twice_is_refused(whole, tmp_path):
    first, second = in_two(whole, tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(BadInput, match=r"call themselves \[0, 0\]"):
        open_source(first)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_biases_of_queries_and_keys_are_put_in_order_like_their_weights(tmp_path, kind):
    spec = replace(BIASED, dim=64, heads=4, kv_heads=2, head_dim=16, ffn_dim=96)
    tensors = random_tensors(spec)
    source = open_source(write_gguf(tmp_path / "biased.gguf", spec, tensors, kind))
    check_coverage(source)
    for name, tensor in tensors.items():
        exact = kind == "f32" or tensor.ndim == 1
        found = source.read(name).float()
        torch.testing.assert_close(found, tensor, rtol=0, atol=0 if exact else 5e-3)
        if tensor.ndim == 1:
            assert torch.equal(source.read(name, slice(3, 9)), tensor[3:9])


def test_vectors_may_be_of_a_half_type(tmp_path):
    """Their rows are values, however many bytes each has in the file."""
    file = tmp_path / "halves.gguf"
    stored = gguf.GGMLQuantizationType.BF16
    writer = gguf.GGUFWriter(file, "llama")
    values = np.arange(10, dtype=np.float32)
    writer.add_tensor("norm", gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from llx.exporter.sources.gguf_parts import GgufFile

    assert GgufFile(file).tensors["norm"].values(slice(2, 5)).tolist() == [2, 3, 4]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_a_big_endian_file_is_refused_by_name(tmp_path, monkeypatch, kind):
    spec = replace(TINY, dim=64, heads=4, kv_heads=2, head_dim=16, ffn_dim=96)
    real = gguf.GGUFWriter
    monkeypatch.setattr(
        "gguf.GGUFWriter", lambda path, arch: real(path, arch, endianess=gguf.GGUFEndian.BIG)
    )
    file = write_gguf(tmp_path / "big.gguf", spec, random_tensors(spec), kind)
    with pytest.raises(BadInput, match="big-endian"):
        open_source(file)


def test_a_quantization_of_the_future_is_refused_by_its_number(whole, tmp_path):
    reader = gguf.GGUFReader(whole)
    at = reader.tensors[0].field.parts[4].__array_interface__["data"][0]
    at -= reader.data.__array_interface__["data"][0]
    changed = bytearray(whole.read_bytes())
    changed[at : at + 4] = struct.pack("<I", 977)
    (tmp_path / "new.gguf").write_bytes(changed)
    with pytest.raises(BadInput, match=r"unknown quantization.*977") as caught:
        open_source(tmp_path / "new.gguf")
    assert "download" not in caught.value.remedy


U8, U32, F32, STRING, ARRAY = 0, 4, 6, 8, 9


def text(value):
    return struct.pack("<Q", len(value)) + value


def field(kind, value):
    return text(b"llama.x") + struct.pack("<I", kind) + value


def tensor(dims, kind=0, offset=0):
    return text(b"t") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_bytes(tensors=0, fields=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest + bytes(64)


HOSTILE = {
    "more fields than bytes": gguf_bytes(fields=2**62),
    "more tensors than bytes": gguf_bytes(tensors=2**62),
    "a list of bytes without end": gguf_bytes(0, 1, field(ARRAY, struct.pack("<IQ", U8, 2**62))),
    "a list of words without end": gguf_bytes(
        0, 1, field(ARRAY, struct.pack("<IQ", STRING, 2**62))
    ),
    "lists in lists": gguf_bytes(0, 1, field(ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000)),
    "a word without end": gguf_bytes(0, 1, struct.pack("<Q", 2**63)),
    "axes without end": gguf_bytes(1, 0, text(b"t") + struct.pack("<I", 2**32 - 1)),
    "a hundred axes": gguf_bytes(1, 0, tensor([1] * 100)),
    "sizes whose product wraps": gguf_bytes(1, 0, tensor([2**33, 2**31 + 1])),
    "no values": gguf_bytes(1, 0, tensor([0, 2**40])),
    "a place past the end": gguf_bytes(1, 0, tensor([4], offset=2**50)),
    "a place that wraps": gguf_bytes(1, 0, tensor([4], offset=2**64 - 32)),
    "half a block": gguf_bytes(1, 0, tensor([5], kind=8)),
    "a field's unknown type": gguf_bytes(0, 1, field(77, b"")),
    "a name that is no text": gguf_bytes(0, 1, text(b"\xff\xfe") + struct.pack("<IB", U8, 1)),
    "an alignment of zero": gguf_bytes(
        0, 1, text(b"general.alignment") + struct.pack("<II", U32, 0)
    ),
    "an alignment of 2 GiB": gguf_bytes(
        1, 1, text(b"general.alignment") + struct.pack("<II", U32, 1 << 31) + tensor([1])
    ),
    "a version of the future": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "the magic alone": b"GGUF",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_gguf_header_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(BadInput):
        open_source(tmp_path / "model.gguf")
