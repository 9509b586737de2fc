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
    with pytest.raises(BadInput, match=r"not a whole file of PyTorch"):
        TorchFile(file).tensors  # noqa: B018


def test_the_format_of_before_pytorch_1_6_is_read(tmp_path):
    file = tmp_path / "consolidated.00.pth"
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    assert TorchFile(file).tensors["a"].shape == (2, 3)
    assert torch.equal(TorchFile(file).read("a", slice(1, 2)), STATE["a"][1:2])


def test_a_pickle_of_before_pytorch_1_6_that_runs_code_runs_nothing(tmp_path):
    bomb = Bomb()
    bomb.place = tmp_path / "executed"
    file = tmp_path / "pytorch_model.bin"
    torch.save(STATE | {"b": bomb}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match="cannot be read as weights"):
        TorchFile(file).tensors  # noqa: B018
    assert not bomb.place.exists()


def test_a_compressed_archive_is_refused(tmp_path):
    plain, packed = tmp_path / "plain.bin", tmp_path / "packed.bin"
    torch.save(STATE, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(BadInput, match="compressed"):
        TorchFile(packed).tensors  # noqa: B018


def test_what_is_no_state_is_refused(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save([1, 2], file)
    with pytest.raises(BadInput, match="a list, not a dictionary"):
        TorchFile(file).tensors  # noqa: B018


def test_what_is_no_tensor_of_floats_is_told_apart(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    others = {
        "step": 5,
        "ids": torch.arange(4),
        "mask": torch.tensor(True),
        "sparse": torch.eye(3).to_sparse(),
        "fp8": torch.ones(3).to(torch.float8_e4m3fn),
    }
    torch.save(STATE | others, file)
    opened = TorchFile(file)
    assert {name: info.dtype for name, info in opened.tensors.items() if not info.is_float} == {
        "ids": "int64",
        "mask": "bool",
        "sparse": "float32 (torch.sparse_coo)",
        "fp8": "float8_e4m3fn",
    }
    assert opened.others == {"step": "no tensor: Python's int"}
    assert torch.equal(opened.read("a"), STATE["a"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {}}]},
        lambda state: {"model": state, "rng": torch.zeros(4, dtype=torch.uint8)},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {}}}},
        lambda state: {"module": state, "ds_version": "0.1"},
    ],
    ids=["Lightning's", "model", "PyTorch's tutorial", "DeepSpeed's"],
)
def test_what_a_trainer_wraps_weights_in_is_looked_through(tmp_path, wrap):
    file = tmp_path / "pytorch_model.bin"
    torch.save(wrap(STATE), file)
    assert set(TorchFile(file).tensors) == {"a"}
    torch.testing.assert_close(TorchFile(file).read("a", slice(1, 2)), STATE["a"][1:2])


def test_several_models_in_a_file_are_named(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"model": STATE, "ema": STATE, "step": 1}, file)
    with pytest.raises(BadInput, match="several models, called model, ema"):
        TorchFile(file).tensors  # noqa: B018


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_view_of_shared_values_is_read_as_it_was_saved(tmp_path, data):
    """Transposed, strided, expanded, overlapping: rows and columns equal those of the view."""
    base = torch.arange(480.0).to(data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = data.draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    start = data.draw(st.integers(0, 300))
    view = base.as_strided(shape, stride, start)
    file = tmp_path / "pytorch_model.bin"
    old = data.draw(st.booleans())
    torch.save({"base": base, "v": view}, file, _use_new_zipfile_serialization=not old)
    rows = slice(data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6)))
    assert torch.equal(TorchFile(file).read("v"), view)
    assert torch.equal(TorchFile(file).read("v", rows), view[rows])
    assert torch.equal(TorchFile(file).read("v", rows, slice(0, 2)), view[rows, :2])


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


@pytest.mark.parametrize("change", [0, 1], ids=["equal", "different"])
def test_a_tensor_in_two_shards_must_be_the_same_in_both(tmp_path, change):
    write_bin(tmp_path, TINY, random_tensors(TINY))
    state = torch.load(tmp_path / "pytorch_model-00001-of-00002.bin", weights_only=True)
    name = next(iter(state))
    other = tmp_path / "pytorch_model-00002-of-00002.bin"
    twice = {name: state[name] + change}
    torch.save(torch.load(other, weights_only=True) | twice, other)
    if change:
        with pytest.raises(
            BadInput, match=r"in pytorch_model-00001-of.* and in pytorch_model-00002"
        ):
            open_source(tmp_path)
        return
    ignored = check_coverage(open_source(tmp_path))
    assert ignored == {f"{name} in {other.name}": f"equal to {name}"}


def test_meta_shards_of_two_checkpoints_are_refused(tmp_path):
    write_meta(tmp_path, TINY, random_tensors(TINY))
    torch.save(STATE, tmp_path / "consolidated.01.pth")
    with pytest.raises(BadInput, match="holds other tensors"):
        check_coverage(open_source(tmp_path, TINY))


def test_a_meta_checkpoint_with_a_shard_missing_is_refused(tmp_path):
    write_meta(tmp_path, TINY, random_tensors(TINY))
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(BadInput, match=r"consolidated\.01\.pth is missing: of 2 shards 1 are here"):
        open_source(tmp_path, TINY)
