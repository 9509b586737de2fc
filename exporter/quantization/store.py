"""What a calibration has found so far, in a folder: it goes on there after a kill or a power cut.

An index names every file with its hash, and is written last. What another request left, or what is
not whole, is as good as not there: the calibration begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save

from llx.errors import BadInput
from llx.exporter.quantization.fold import Folds
from llx.exporter.quantize import Quantized
from llx.files import (
    empty,
    is_plain_name,
    locked_folder,
    read_sealed,
    remove,
    sha256_of,
    write_sealed,
    write_whole,
)

INDEX = "index"


@dataclass(frozen=True)
class CalibratedModule:
    """A linear layer's values and scales, its input's largest magnitude, and its fold [in].

    `input_most` is that of the folded input.
    """

    quantized: Quantized
    input_most: float
    fold: torch.Tensor | None


@dataclass(frozen=True)
class _Index:
    """Whose the store is, how many layers are done, and the hash of every file that says so."""

    request: str
    layers: int = 0
    files: dict[str, str] = field(default_factory=dict)


class CalibrationStore:
    """Calibrated modules by name, and the hidden states that reach the next layer."""

    def __init__(self, folder: Path, index: _Index) -> None:
        self._folder, self._index = folder, index

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, key: str) -> Iterator[CalibrationStore]:
        """The store of one request in a folder; what is of another, or not whole, is removed.

        Raises `BadInput` where another run holds it. The folder stays: `clear` removes it.
        """
        with locked_folder(folder, f"another export is calibrating in {folder}"):
            index = _index_of(folder)
            if index is None or index.request != key or not _whole(folder, index):
                empty(folder)
                index = _Index(key)
            yield cls(folder, index)

    @staticmethod
    def clear(folder: Path, only: str | None = None) -> None:
        """Remove a store where no run holds it. `only`: that of one request, or of none at all."""
        with contextlib.suppress(BadInput, OSError), locked_folder(folder, ""):
            index = _index_of(folder)
            if index is None or only in (None, index.request):
                (folder / INDEX).unlink(missing_ok=True)
                remove(folder)

    def write(self, module: str, calibrated: CalibratedModule) -> None:
        """Keep a module."""
        tensors = {
            "values": calibrated.quantized.values.contiguous(),
            "scales": calibrated.quantized.scales.contiguous(),
            "input_most": torch.tensor(calibrated.input_most),
        }
        if calibrated.fold is not None:
            tensors["fold"] = calibrated.fold.contiguous()
        self._keep(self._path(module).name, save(tensors))

    def _keep(self, name: str, data: bytes | memoryview) -> None:
        write_whole(self._folder / name, data)
        self._index.files[name] = hashlib.sha256(data).hexdigest()

    def read(self, module: str) -> CalibratedModule:
        """A module that was kept."""
        with safe_open(self._path(module), framework="pt") as file:
            names = set(file.keys())
            return CalibratedModule(
                Quantized(file.get_tensor("values"), file.get_tensor("scales")),
                float(file.get_tensor("input_most")),
                file.get_tensor("fold") if "fold" in names else None,
            )

    def quantized(self, module: str) -> Quantized:
        """A module's values and scales."""
        return self.read(module).quantized

    def input_maxima(self) -> dict[str, float]:
        """Largest magnitude of every folded input, by module."""
        return {module: self.read(module).input_most for module in self._modules()}

    def folds(self) -> Folds:
        """Every module's fold, where it has one."""
        found = {module: self._tensor(module, "fold") for module in self._modules()}
        return {module: fold for module, fold in found.items() if fold is not None}

    def keep_written(self, batch: int, tokens: NDArray[np.int64]) -> None:
        """Keep a batch of what the model wrote to be calibrated on."""
        data = io.BytesIO()
        np.save(data, tokens, allow_pickle=False)
        self._keep(self._written(batch).name, data.getbuffer())
        write_sealed(self._folder / INDEX, msgspec.json.encode(self._index))

    def written(self, batch: int) -> NDArray[np.int64] | None:
        """A batch that was kept."""
        path = self._written(batch)
        if path.name not in self._index.files:
            return None
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]

    def layer_done(self, layer: int, hidden: torch.Tensor) -> None:
        """Keep the hidden states that leave a layer; with them the layer counts as done."""
        data = io.BytesIO()
        np.save(data, hidden.numpy(), allow_pickle=False)
        self._keep(self._hidden(layer + 1).name, data.getbuffer())
        self._index.files.pop(self._hidden(layer).name, None)
        self._index = _Index(self._index.request, layer + 1, self._index.files)
        write_sealed(self._folder / INDEX, msgspec.json.encode(self._index))
        self._hidden(layer).unlink(missing_ok=True)

    def resume(self) -> tuple[int, torch.Tensor | None]:
        """The first layer that is not done, and the hidden states that reach it, if any is."""
        layer = self._index.layers
        if not layer:
            return 0, None
        return layer, torch.from_numpy(np.load(self._hidden(layer), allow_pickle=False))

    def discard(self) -> None:
        """Remove all of it, for good."""
        (self._folder / INDEX).unlink(missing_ok=True)
        remove(self._folder)

    def scratch(self, name: str) -> Path:
        """A path for what one step of the export needs for itself."""
        return self._folder / name

    def _modules(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("layers.*.safetensors"))

    def _tensor(self, module: str, name: str) -> torch.Tensor | None:
        with safe_open(self._path(module), framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None

    def _path(self, module: str) -> Path:
        return self._folder / f"{module}.safetensors"

    def _written(self, batch: int) -> Path:
        return self._folder / f"written-{batch:04}.npy"

    def _hidden(self, layer: int) -> Path:
        return self._folder / f"hidden-{layer:04}.npy"


def _index_of(folder: Path) -> _Index | None:
    """What a store says of itself, if it says so whole."""
    data = read_sealed(folder / INDEX)
    try:
        return msgspec.json.decode(data, type=_Index) if data is not None else None
    except msgspec.DecodeError:  # of another version
        return None


def _whole(folder: Path, index: _Index) -> bool:
    """Whether every file that the index names is there as it was written."""
    try:
        return all(
            is_plain_name(name) and sha256_of(folder / name) == sha256
            for name, sha256 in index.files.items()
        )
    except OSError:
        return False
