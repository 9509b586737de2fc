"""Files of named tensors, whatever checkpoint they belong to: safetensors, and PyTorch's own.

Only what is asked for is read, and nothing stays mapped once the tensor read is let go of: mapped
pages count as memory.
"""

from __future__ import annotations

import os
import pickle  # noqa: TID251  for the name of its error; nothing is unpickled with it
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch._subclasses.fake_tensor import FakeTensorMode  # named by torch.load's documentation

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo

ALL = slice(None)
SAFETENSORS_FLOATS = {"F64", "F32", "F16", "BF16"}
TORCH_FLOATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


class TensorFile(Protocol):
    """One file of named tensors."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor. Raises `BadInput` where the file is damaged."""

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""


class SafetensorsFile:
    """A safetensors file. It is mapped anew for each reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor; `BadInput` where one holds no floats."""
        infos = {}
        file = self._open()
        for name in file.keys():
            view = file.get_slice(name)
            infos[name] = TensorInfo(tuple(view.get_shape()), view.get_dtype())
            _require_float(name, infos[name].dtype in SAFETENSORS_FLOATS, infos[name].dtype)
        return infos

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""
        view = self._open().get_slice(name)
        block: torch.Tensor = view[rows] if columns == ALL else view[rows, columns]
        return block

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            if not os.access(self.path, os.R_OK):
                raise BadInput(
                    f"{self.path} may not be read by this user", "check its permissions"
                ) from None
            raise BadInput(
                f"{self.path} is not a whole safetensors file ({error})", "download it again"
            ) from None


class TorchFile:
    """A file that `torch.save` wrote. It is a pickle, so only tensors are admitted, never code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor; `BadInput` where one holds no floats."""
        infos = {}
        for name, (tensor, _) in self._places.items():
            dtype = TORCH_FLOATS.get(tensor.dtype)
            _require_float(name, dtype is not None, str(tensor.dtype))
            infos[name] = TensorInfo(tuple(tensor.shape), dtype or "")
        return infos

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""
        tensor, offset = self._places[name]
        storage = torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)
        empty: Any = torch.empty(0, dtype=tensor.dtype)
        stored: torch.Tensor = empty.set_(storage, offset // tensor.element_size(), tensor.shape)
        return stored[rows] if columns == ALL else stored[rows, columns]

    @cached_property
    def _places(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Every tensor without its values, and the byte of the file where they begin."""
        state = self._load()
        state = state.get("state_dict", state.get("model", state))
        places = {}
        size = self.path.stat().st_size
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor):
                raise self._damaged(f"{name} is no tensor")
            start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
            if start is None or not tensor.is_contiguous():
                raise self._damaged(f"{name} does not lie in one piece")
            offset = start + tensor.storage_offset() * tensor.element_size()
            if offset + tensor.nbytes > size or offset % tensor.element_size():
                raise self._damaged(f"{name} does not lie within it")
            places[str(name)] = (tensor, offset)
        return places

    def _load(self) -> dict[Any, Any]:
        """The pickle's tensors as shapes and places: `weights_only` admits nothing that runs."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                packed = [e.filename for e in archive.infolist() if e.compress_type]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            raise BadInput(
                f"{self.path} is not a whole file of torch.save",
                "download it again; a file from before PyTorch 1.6 must be saved anew with a "
                "newer one, since it cannot be read in parts",
            ) from None
        if packed:
            raise self._damaged("it is compressed")
        try:
            with FakeTensorMode():
                state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
            raise self._damaged(str(error).split(".")[0]) from None
        except (TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise self._damaged(str(error).split(".")[0]) from None
        except AssertionError:  # PyTorch's own, with no words
            raise self._damaged("PyTorch finds it inconsistent") from None
        if not isinstance(state, dict):
            raise self._damaged("it holds no dictionary of tensors")
        return state

    def _damaged(self, why: str) -> BadInput:
        return BadInput(
            f"{self.path} cannot be read as weights ({why})",
            "export from the model's safetensors files",
        )


def _require_float(name: str, is_float: bool, dtype: str) -> None:
    if not is_float:
        raise BadInput(
            f"{name} is stored as {dtype}, not as a float",
            "export from the checkpoint before it was quantized",
        )
