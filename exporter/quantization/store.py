"""What a calibration has found so far, in a folder: it goes on there after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llx.exporter.quantization.fold import Folds
from llx.exporter.quantize import Quantized
from llx.files import locked_folder


@dataclass(frozen=True)
class CalibratedModule:
    """A linear layer's values and scales, its input's largest magnitude, and its fold [in].

    `input_most` is that of the folded input.
    """

    quantized: Quantized
    input_most: float
    fold: torch.Tensor | None


class CalibrationStore:
    """Calibrated modules by name, and the hidden states that reach the next layer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, key: str) -> Iterator[CalibrationStore]:
        """The store of one request in a folder; what another request left there is removed.

        Raises `BadInput` where another run holds it. The folder stays: `discard` removes it.
        """
        with locked_folder(folder, f"another export is calibrating in {folder}"):
            marker = folder / "request"
            if not marker.is_file() or marker.read_text() != key:
                for path in folder.iterdir():
                    path.unlink()
                marker.write_text(key)
            yield cls(folder)

    def write(self, module: str, calibrated: CalibratedModule) -> None:
        """Keep a module."""
        tensors = {
            "values": calibrated.quantized.values.contiguous(),
            "scales": calibrated.quantized.scales.contiguous(),
            "input_most": torch.tensor(calibrated.input_most),
        }
        if calibrated.fold is not None:
            tensors["fold"] = calibrated.fold.contiguous()
        save_file(tensors, self._path(module))

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

    def layer_done(self, layer: int, hidden: torch.Tensor) -> None:
        """Keep the hidden states that leave a layer; with them the layer counts as done."""
        partial = self._folder / "hidden.partial"
        with partial.open("wb") as file:
            np.save(file, hidden.numpy(), allow_pickle=False)
        partial.replace(self._hidden(layer + 1))
        self._hidden(layer).unlink(missing_ok=True)

    def resume(self) -> tuple[int, torch.Tensor | None]:
        """The first layer that is not done, and the hidden states that reach it, if any is."""
        found = sorted(self._folder.glob("hidden-*.npy"))
        if not found:
            return 0, None
        layer = int(found[-1].stem.removeprefix("hidden-"))
        return layer, torch.from_numpy(np.load(found[-1], allow_pickle=False))

    def discard(self) -> None:
        """Remove all of it, now that the artifact holds what was found."""
        shutil.rmtree(self._folder)

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

    def _hidden(self, layer: int) -> Path:
        return self._folder / f"hidden-{layer:04}.npy"
