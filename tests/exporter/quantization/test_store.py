"""A calibration goes on from what is whole, and from nothing else."""

from __future__ import annotations

import pytest
import torch

from llx.exporter.quantization.store import CalibratedModule, CalibrationStore
from llx.exporter.quantize import Quantized

HIDDEN = torch.arange(24, dtype=torch.float32).reshape(1, 4, 6)
MODULES = ("layers.0.qkv", "layers.0.down")


@pytest.fixture
def folder(tmp_path):
    """A store with one layer done."""
    with CalibrationStore.opened(tmp_path / "store", "key") as store:
        for module in MODULES:
            values, scales = torch.ones(6, 5, dtype=torch.int8), torch.ones(5)
            store.write(module, CalibratedModule(Quantized(values, scales), 2.0, torch.ones(6)))
        store.layer_done(0, HIDDEN)
    return tmp_path / "store"


def found_in(folder, key="key"):
    """The first layer that is not done, and the modules that are kept."""
    with CalibrationStore.opened(folder, key) as store:
        layer, hidden = store.resume()
        assert hidden is None or torch.equal(hidden, HIDDEN)
        return layer, sorted(store.input_maxima())


def damaged(data):
    yield from (data[:at] for at in (0, 1, len(data) // 2, len(data) - 1))
    for at in range(0, len(data), max(1, len(data) // 12)):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_store_that_is_whole_is_gone_on_with(folder):
    assert found_in(folder) == (1, sorted(MODULES))


@pytest.mark.parametrize("name", ["index", "hidden-0001.npy", f"{MODULES[0]}.safetensors"])
def test_a_store_that_is_damaged_anywhere_is_as_good_as_none(folder, name):
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for data in damaged(whole[folder / name]):
        for path, before in whole.items():
            path.write_bytes(before)
        (folder / name).write_bytes(data)
        assert found_in(folder) == (0, [])
    for path, before in whole.items():
        path.write_bytes(before)
    (folder / name).unlink()
    assert found_in(folder) == (0, [])


def test_what_lies_in_the_way_is_removed(folder):
    (folder / "deeper").mkdir()
    (folder / "deeper" / "file").write_text("left")
    assert found_in(folder, "another") == (0, [])
    assert list(folder.iterdir()) == []


def test_a_store_is_cleared_for_its_own_request_and_where_it_says_nothing(folder):
    CalibrationStore.clear(folder, only="another")
    assert folder.exists()
    with CalibrationStore.opened(folder, "key"):
        CalibrationStore.clear(folder)
        assert folder.exists()  # of a run that is at work
    CalibrationStore.clear(folder, only="key")
    assert not folder.exists()
    folder.mkdir()
    CalibrationStore.clear(folder, only="key")
    assert not folder.exists()
