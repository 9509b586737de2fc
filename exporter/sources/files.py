"""Files of named tensors, whatever checkpoint they belong to: safetensors, and PyTorch's own.

Only what is asked for is read, and nothing stays mapped once the tensor read is let go of: mapped
pages count as memory.
"""

from __future__ import annotations

import pickle  # noqa: TID251  for the name of its error; nothing is unpickled with it
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch._subclasses.fake_tensor import FakeTensorMode  # named by torch.load's documentation

from llx.errors import BadInput, one_line
from llx.exporter.sources.base import TensorInfo
from llx.exporter.sources.damage import kind_of, unreadable

ALL = slice(None)
SAFETENSORS_FLOATS = {"F64", "F32", "F16", "BF16"}
TORCH_FLOATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
# What torch.load raises on a file that is cut off, changed, or wants more than tensors.
DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError),
    *(TypeError, AttributeError, IndexError, OverflowError, MemoryError, AssertionError),
    struct.error,
)
# How torch.load names what it was asked to call and did not.
CODE = re.compile(r"GLOBAL ([\w.]+)", re.ASCII)


class TensorFile(Protocol):
    """One file of named tensors."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor. Raises `BadInput` where the file is damaged."""

    @property
    def others(self) -> Mapping[str, str]:
        """What the file holds beside tensors, and what it is."""

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""


def tensor_file(path: Path) -> TensorFile:
    """A safetensors file, by its name or its beginning, else one that torch.save wrote."""
    named = path.suffix.lower() == ".safetensors"
    return SafetensorsFile(path) if named or kind_of(path) == "safetensors" else TorchFile(path)


class SafetensorsFile:
    """A safetensors file. It is mapped anew for each reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.others: Mapping[str, str] = {}

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor, whether or not it holds floats."""
        infos = {}
        file = self._open()
        for name in file.keys():
            view = file.get_slice(name)
            dtype = view.get_dtype()
            infos[name] = TensorInfo(tuple(view.get_shape()), dtype, dtype in SAFETENSORS_FLOATS)
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
            raise unreadable(self.path, "safetensors file", error) from None


@dataclass(frozen=True)
class _Place:
    """A tensor without its values, and where in the file they begin; None where it is in memory."""

    tensor: torch.Tensor
    offset: int | None


class TorchFile:
    """A file that `torch.save` wrote. It is a pickle, so only tensors are admitted, never code.

    Tensors may be views: transposed, strided, or sharing their values. A file from before PyTorch
    1.6 has no places to read from, so the whole of it is held in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor, whether or not it holds floats."""
        infos = {}
        for name, value in self._state.items():
            if name in self._places:
                dtype = TORCH_FLOATS[value.dtype]
                infos[name] = TensorInfo(tuple(value.shape), dtype)
            elif isinstance(value, torch.Tensor):
                sparse = "" if value.layout == torch.strided else f" ({value.layout})"
                dtype = f"{str(value.dtype).removeprefix('torch.')}{sparse}"
                infos[name] = TensorInfo(tuple(value.shape), dtype, is_float=False)
        return infos

    @cached_property
    def others(self) -> Mapping[str, str]:
        """What the file holds beside tensors, such as the number of a step."""
        return {
            name: f"no tensor: Python's {type(value).__name__}"
            for name, value in self._state.items()
            if not isinstance(value, torch.Tensor)
        }

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""
        tensor, offset = self._places[name].tensor, self._places[name].offset
        if offset is not None:
            whole = torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)
            empty: Any = torch.empty(0, dtype=tensor.dtype)
            start = offset // tensor.element_size()
            tensor = empty.set_(whole, start, tensor.shape, tensor.stride())
        return tensor.detach()[rows] if columns == ALL else tensor.detach()[rows, columns]

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """Where every tensor of floats lies."""
        return {
            name: self._place(name, value)
            for name, value in self._state.items()
            if isinstance(value, torch.Tensor)
            and value.layout == torch.strided
            and value.dtype in TORCH_FLOATS
        }

    def _place(self, name: str, tensor: torch.Tensor) -> _Place:
        if self._is_old:
            return _Place(tensor, None)
        storage, size = tensor.untyped_storage(), self.path.stat().st_size
        start = getattr(storage, "_checkpoint_offset", None)
        if start is None:
            raise self._damaged(f"{name} has no place in it")
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        extent = 1 + sum((n - 1) * step for n, step in steps) if tensor.numel() else 0
        inner = (tensor.storage_offset() + extent) * tensor.element_size()
        if inner > storage.nbytes() or start + storage.nbytes() > size:
            raise self._damaged(f"{name} does not lie within it")
        offset = start + tensor.storage_offset() * tensor.element_size()
        if offset % tensor.element_size():
            raise self._damaged(f"{name} does not begin at a whole number of its values")
        return _Place(tensor, offset)

    @cached_property
    def _state(self) -> dict[str, Any]:
        """What the file holds by name, looked through what a trainer wraps it in."""
        state = self._load()
        if not isinstance(state, dict):
            raise self._damaged(f"it holds a {type(state).__name__}, not a dictionary of tensors")
        if not any(str(name).endswith(".weight") for name in state):
            inner = [name for name, value in state.items() if _is_state(value)]
            if len(inner) > 1:
                raise BadInput(
                    f"{self.path} holds several models, called {', '.join(map(str, inner))}",
                    "save the one that is meant by itself, as safetensors",
                )
            state = state[inner[0]] if inner else state
        return {str(name): value for name, value in state.items()}

    @cached_property
    def _is_old(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(2) != b"PK"

    def _load(self) -> Any:
        """The pickle's tensors as shapes and places: `weights_only` admits nothing that runs."""
        if kind_of(self.path) != "PyTorch":
            raise unreadable(self.path, "file of PyTorch", "torch.save writes no such file")
        try:
            if self._is_old:
                return self._unpickled()
            with zipfile.ZipFile(self.path) as archive:
                packed = [e.filename for e in archive.infolist() if e.compress_type]
            if packed:
                raise self._damaged("it is compressed")
            with FakeTensorMode():
                return self._unpickled()
        except zipfile.BadZipFile as error:
            raise unreadable(self.path, "file of PyTorch", error) from None
        except RecursionError:
            raise self._damaged("it is nested too deeply") from None
        except DAMAGE as error:
            if code := CODE.search(str(error)):
                raise BadInput(
                    f"{self.path} cannot be read as weights (loading it would run {code[1]}, and "
                    "llx runs no code of a file)",
                    "convert it to safetensors in a sandbox, if you trust who made it, or use the "
                    "model's safetensors files",
                ) from None
            raise self._damaged(str(error).split(". ")[0] or "PyTorch finds it damaged") from None

    def _unpickled(self) -> Any:
        with warnings.catch_warnings():  # of what ends in a refusal, or in nothing
            warnings.simplefilter("ignore")
            return torch.load(self.path, map_location="cpu", weights_only=True)

    def _damaged(self, why: str) -> BadInput:
        return BadInput(
            f"{self.path} cannot be read as weights ({one_line(why)})",
            "export from the model's safetensors files, or download it again if it was cut off",
        )


def _is_state(value: Any) -> bool:
    """Whether a value is a dictionary of tensors by name, as a model's state is."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )
