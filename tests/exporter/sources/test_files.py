"""Hostile and damaged files: one clear error, nothing executed, nothing large allocated."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251  to write what must never be read
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.files import SafetensorsFile, TorchFile
from tests.checkpoints import TINY, random_tensors, write_bin, write_checkpoint, write_meta

STATE = {"a": torch.arange(6.0).reshape(2, 3)}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("inside", ["alone", "as a tensor"])
def test_a_pickle_that_runs_code_runs_nothing(tmp_path, inside):
    bomb = Bomb()
    bomb.place = tmp_path / "executed"
    file = tmp_path / "pytorch_model.bin"
    torch.save(bomb if inside == "alone" else STATE | {"b": bomb}, file)
    with pytest.raises(BadInput, match="cannot be read as weights"):
        TorchFile(file).tensors  # noqa: B018
    assert not bomb.place.exists()


def test_a_plain_pickle_is_refused_by_name(tmp_path):
    file = tmp_path / "old.pth"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BadInput, match=r"before PyTorch 1\.6 must be saved anew"):
        TorchFile(file).tensors  # noqa: B018


def test_the_legacy_format_of_torch_is_refused_by_name(tmp_path):
    file = tmp_path / "consolidated.00.pth"
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match=r"before PyTorch 1\.6 must be saved anew"):
        TorchFile(file).tensors  # noqa: B018


def test_a_compressed_archive_is_refused(tmp_path):
    plain, packed = tmp_path / "plain.bin", tmp_path / "packed.bin"
    torch.save(STATE, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(BadInput, match="compressed"):
        TorchFile(packed).tensors  # noqa: B018


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ([1, 2], "no dictionary"),
        ({"a": 3}, "a is no tensor"),
        ({"a": torch.arange(4)}, "not as a float"),
        ({"a": torch.ones(3, 4).T}, "one piece"),
        ({"a": torch.ones(1).expand(10**9)}, "one piece"),
    ],
    ids=["a list", "a number", "integers", "a transposed view", "an expanded view"],
)
def test_what_is_no_plain_state_is_refused(tmp_path, state, why):
    file = tmp_path / "pytorch_model.bin"
    torch.save(state, file)
    with pytest.raises(BadInput, match=why):
        TorchFile(file).tensors  # noqa: B018


def test_an_optimizer_wrapper_is_looked_through(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": STATE, "epoch": 3}, file)
    assert set(TorchFile(file).tensors) == {"a"}
    torch.testing.assert_close(TorchFile(file).read("a", slice(1, 2)), STATE["a"][1:2])


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path, kind, data):
    """Whatever was changed: no other error than `BadInput`."""
    folder = tmp_path / kind
    if not folder.exists():
        writer = write_bin if kind == "bin" else write_checkpoint
        writer(folder, TINY, random_tensors(TINY))
    file = next(path for path in sorted(folder.iterdir()) if path.suffix == f".{kind}")
    whole = file.read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1) | st.integers(0, 3000))
        broken[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        broken = broken[: data.draw(st.integers(0, len(broken)))]
    file.write_bytes(broken)
    try:
        source = open_source(folder)
        check_coverage(source)
        sizes = {name: source.read(name).numel() for name in source.tensors}
        assert sum(sizes.values()) == TINY.parameters
    except BadInput:
        return
    finally:
        file.write_bytes(whole)


def header(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWICE = (
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
)
HOSTILE = {
    "a header of absurd length": (2**62).to_bytes(8, "little") + b"{}",
    "an absurd shape": header(a=ENTRY | {"shape": [2**40, 2**40]}) + bytes(8),
    "offsets past the end": header(a=ENTRY | {"data_offsets": [0, 2**40]}) + bytes(8),
    "an overlap": header(a=ENTRY, b=ENTRY) + bytes(8),
    "a negative shape": header(a=ENTRY | {"shape": [-2]}) + bytes(8),
    "deep nesting": (200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000,
    "twice the same name": len(TWICE).to_bytes(8, "little") + TWICE + bytes(16),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_safetensors_header_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        SafetensorsFile(file).tensors  # noqa: B018


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "{", "null", "[]", "\xff"])
def test_a_hostile_config_is_refused(tmp_path, text):
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"config\.json is not"):
        open_source(tmp_path)


def test_the_same_tensor_in_two_shards_is_refused(tmp_path):
    write_bin(tmp_path, TINY, random_tensors(TINY))
    state = torch.load(tmp_path / "pytorch_model-00001-of-00002.bin", weights_only=True)
    other = tmp_path / "pytorch_model-00002-of-00002.bin"
    torch.save(torch.load(other, weights_only=True) | state, other)
    with pytest.raises(BadInput, match="is in pytorch_model-00001-of-00002"):
        open_source(tmp_path).tensors  # noqa: B018


def test_meta_shards_of_two_checkpoints_are_refused(tmp_path):
    write_meta(tmp_path, TINY, random_tensors(TINY))
    torch.save(STATE, tmp_path / "consolidated.01.pth")
    with pytest.raises(BadInput, match="holds other tensors"):
        check_coverage(open_source(tmp_path, TINY))


def test_a_meta_checkpoint_with_a_shard_missing_is_refused(tmp_path):
    write_meta(tmp_path, TINY, random_tensors(TINY))
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(BadInput, match="where the model needs"):
        check_coverage(open_source(tmp_path, TINY))
