"""Files of PyTorch whose pickles, sizes and archives lie: one error each, and no crash."""

from __future__ import annotations

import contextlib
import io
import pickle  # noqa: TID251  to write what must never be believed
import random
import warnings
import zipfile

import pytest
import torch

from llx.errors import BadInput
from llx.exporter.sources.files import TorchFile
from tests.checkpoints import SEED
from tests.mutations import EDGES, mutated

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.arange(8, dtype=torch.bfloat16).reshape(2, 4).T,
    "n": 3,
}


def saved(state, old=False):
    made = io.BytesIO()
    torch.save(state, made, _use_new_zipfile_serialization=not old)
    return made.getvalue()


def repacked(data, change, **options):
    """The archive with its parts changed: `change` takes and gives {name: bytes}."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:
        for name, part in change(parts).items():
            archive.writestr(name, part)
    return made.getvalue()


def refused(tmp_path, data, why="PyTorch|as weights"):
    file = tmp_path / "model.bin"
    file.write_bytes(data)
    with pytest.raises(BadInput, match=why) as error:
        read_all(file)
    assert "\n" not in str(error.value)


def read_all(path):
    opened = TorchFile(path)
    found = {name: opened.read(name) for name, info in opened.tensors.items() if info.is_float}
    for tensor in found.values():
        tensor.float().sum()
    return opened, found


@pytest.mark.parametrize("old", [False, True])
def test_what_was_saved_is_read(tmp_path, old):
    state = STATE | {"c": torch.nn.Parameter(torch.ones(3, 1).expand(3, 5))}
    file = tmp_path / "model.bin"
    file.write_bytes(saved(state, old))
    opened, found = read_all(file)
    assert opened.others == {"n": "no tensor: Python's int"}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, state[name].detach())


def test_tensors_of_every_kind_are_named_and_not_read(tmp_path):
    values = torch.arange(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {
            "a.weight": values,
            "coo": torch.eye(3).to_sparse(),
            "csr": torch.eye(3).to_sparse_csr(),
            "csc": torch.eye(3).to_sparse_csc(),
            "quantized": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
            "meta": torch.empty(3, device="meta"),
            "nested": torch.nested.nested_tensor([values, values[:2]]),
            "complex": torch.ones(2, dtype=torch.complex64),
            "size": values.shape,
            "device": torch.device("cpu"),
            "dtype": torch.float32,
        }
    file = tmp_path / "model.bin"
    file.write_bytes(saved(state))
    opened, found = read_all(file)
    assert set(found) == {"a.weight"}
    named = {name: info.dtype for name, info in opened.tensors.items() if not info.is_float}
    assert named == {
        "coo": "float32 (torch.sparse_coo)",
        "csr": "float32 (torch.sparse_csr)",
        "csc": "float32 (torch.sparse_csc)",
        "quantized": "qint8",
        "meta": "float32 (meta)",
        "complex": "complex64",
    }
    assert set(opened.others) == {"nested", "size", "device", "dtype"}


ARCHIVES = {
    "another byte order": (lambda p: p | {"archive/byteorder": b"big"}, "little-endian"),
    "a short storage": (lambda p: p | {"archive/data/0": b""}, "do not lie within"),
    "no storage": (lambda p: {n: d for n, d in p.items() if "/data/1" not in n}, "not lie within"),
    "two pickles": (lambda p: p | {"other/data.pkl": b""}, "several"),
    "no pickle": (lambda p: {"archive/a": b""}, "no data.pkl"),
}


@pytest.mark.parametrize(("change", "why"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_lies_is_refused(tmp_path, change, why):
    refused(tmp_path, repacked(saved(STATE), change), why)


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    plain = saved(STATE)
    packed = repacked(plain, dict, compression=zipfile.ZIP_DEFLATED)
    refused(tmp_path, packed, "compressed")
    bomb = repacked(plain, lambda p: p | {"archive/x": bytes(10**7)}, compression=zipfile.ZIP_BZIP2)
    refused(tmp_path, bomb, "compressed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = io.BytesIO(plain)
        with zipfile.ZipFile(twice, "a") as archive:
            archive.writestr("archive/data/0", bytes(1000))
    refused(tmp_path, twice.getvalue(), "one name")
    at = plain.rindex(b"PK\x01\x02")
    encrypted = plain[: at + 8] + b"\x01" + plain[at + 9 :]
    refused(tmp_path, encrypted, "encrypted")


def view(*, size=(2, 3), stride=(3, 1), offset=0, count=6, kind="FloatStorage", key="0"):
    """A pickle of one tensor whose numbers are these, as opcodes."""

    def put(value):
        # Protocol 2 by hand: the pickler of Python writes any plain value.
        return pickle.dumps(value, 2)[2:-1]

    storage = b"(" + put("storage") + f"ctorch\n{kind}\n".encode()
    storage += put(key) + put("cpu") + put(count) + b"tQ"
    body = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + put(offset) + put(size)
    return b"\x80\x02}" + put("a.weight") + body + put(stride) + b"\x89Ntr" + b"\0\0\0\0Rs."


@pytest.mark.parametrize(
    "numbers",
    [
        *({"offset": n} for n in (-1, 1, 2**31, 2**62, 2**70, True, None, "x", 0.5)),
        *({"size": s} for s in ((-2, 3), (2**62, 3), (3, 3), ("x", 3), None, (2,), (2,) * 99)),
        *({"stride": s} for s in ((-3, 1), (2**62, 1), (4, 1), (None, 1), [3], "31")),
        *({"count": n} for n in (-1, 5, 7, 2**31, 2**62, 2**70, "6", None, 6.0)),
        *({"kind": k} for k in ("DoubleStorage", "Tensor", "device", "BFloat16Storage2")),
        *({"key": k} for k in ("9", "../0", "", 0, None)),
    ],
    ids=str,
)
def test_a_tensor_of_impossible_numbers_is_refused(tmp_path, numbers):
    def with_pickle(made):
        return lambda parts: parts | {"archive/data.pkl": made, "archive/data/0": bytes(24)}

    file = tmp_path / "whole.bin"
    file.write_bytes(repacked(saved(STATE), with_pickle(view())))
    assert read_all(file)[1]["a.weight"].shape == (2, 3)
    refused(tmp_path, repacked(saved(STATE), with_pickle(view(**numbers))), "as weights")


HOSTILE = {
    "a tuple too deep to hash": b"\x80\x02}" + b"(" * 1 + b")" + b"\x85" * 10**6 + b"K\x01s.",
    "such a key of a set": b"\x80\x04\x8f(" + b")" + b"\x85" * 10**6 + b"\x90.",
    "bytes that are not there": b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b".",
    "an array that is not there": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "a word that is not there": b"\x80\x02X\xff\xff\xff\x7f.",
    "a number of many bytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a name of the system": b"\x80\x02cos\nsystem\n(X\x04\0\0\0truetR.",
    "a name of builtins": b"\x80\x02cbuiltins\neval\n(X\x01\0\0\0" + b"1tR.",
    "a name with dots": b"\x80\x04\x8c\x05torch\x8c\x0dTensor.__call__\x93.",
    "an extension": b"\x80\x02\x82\x01.",
    "nothing on the stack": b"\x80\x02s.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_would_crash_or_allocate_is_refused(tmp_path, data):
    refused(tmp_path, repacked(saved(STATE), lambda parts: parts | {"archive/data.pkl": data}))


@pytest.mark.parametrize("memo", [b"r\xff\xff\xff\xff", b"p" + str(2**62).encode() + b"\n"])
def test_a_far_memo_takes_no_memory(tmp_path, memo):
    """Python's unpickler in C makes a place for each number below."""
    file = tmp_path / "model.bin"
    data = b"\x80\x02}" + memo + b"."
    file.write_bytes(repacked(saved(STATE), lambda parts: parts | {"archive/data.pkl": data}))
    assert read_all(file)[1] == {}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("where", ["the file", "the pickle"])
def test_a_damaged_file_is_refused_or_read(tmp_path, old, where):
    """Whatever bytes are changed, of the whole file or of the pickle within a good archive."""
    if old and where == "the pickle":
        pytest.skip("the pickle is the file's beginning")
    whole, dice, file = saved(STATE, old), random.Random(SEED), tmp_path / "model.bin"
    for _ in range(300):
        if where == "the file":
            _, data = mutated(whole, dice, saved(STATE, not old))
        else:
            data = repacked(
                whole,
                lambda p: p | {"archive/data.pkl": mutated(p["archive/data.pkl"], dice)[1]},
            )
        file.write_bytes(data)
        with contextlib.suppress(BadInput):
            read_all(file)


def test_the_storages_of_the_old_format_lie_within_it(tmp_path):
    whole = saved(STATE, old=True)
    at = len(whole) - 16 - 8
    for number in (*EDGES, 7, 9):
        data = whole[:at] + number.to_bytes(8, "little") + whole[at + 8 :]
        file = tmp_path / "model.bin"
        file.write_bytes(data)
        with contextlib.suppress(BadInput):
            read_all(file)
