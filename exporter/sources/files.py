"""Files of named tensors, whatever checkpoint they belong to: safetensors, and PyTorch's own.

Only what is asked for is read, and nothing stays mapped once the tensor read is let go of: mapped
pages count as memory.
"""

from __future__ import annotations

import pickle  # noqa: TID251  for the name of its error; nothing is unpickled with it
import struct
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from llx.errors import BadInput, one_line
from llx.exporter.sources.base import TensorInfo
from llx.exporter.sources.damage import kind_of, unreadable
from llx.exporter.sources.torch_file import Contents, contents, storages_of
from llx.exporter.sources.unpickle import BYTES, Name, NamesCode, Odd, View

ALL = slice(None)
SAFETENSORS_FLOATS = {"F64", "F32", "F16", "BF16"}
TORCH_FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# What the reader of pickles raises on a file that is cut off, changed, or wants more than tensors.
DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError),
    *(TypeError, AttributeError, IndexError, OverflowError, MemoryError, AssertionError),
    *(struct.error, zipfile.LargeZipFile),  # RecursionError and NotImplementedError: RuntimeErrors
)


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


class TorchFile:
    """A file that `torch.save` wrote. Its pickle is read as data: no code, no tensor comes of it.

    Tensors may be views: transposed, strided, or sharing their values. Each was seen to lie within
    its storage, and the storage within the file, before PyTorch is told where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor, whether or not it holds floats."""
        infos = {}
        for name, value in self._state.items():
            if name in self._places:
                infos[name] = TensorInfo(value.shape, TORCH_FLOATS[value.dtype])
            elif isinstance(value, (View, Odd)):
                infos[name] = TensorInfo(value.shape, value.dtype, is_float=False)
        return infos

    @cached_property
    def others(self) -> Mapping[str, str]:
        """What the file holds beside tensors, such as the number of a step."""
        return {
            name: f"no tensor: Python's {_kind(value)}"
            for name, value in self._state.items()
            if not isinstance(value, (View, Odd))
        }

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file where it can be."""
        view: View = self._state[name]
        start, dtype = self._places[name], getattr(torch, view.dtype)
        whole: Any
        if start % BYTES[view.dtype]:  # in memory: PyTorch maps whole values only
            values = np.fromfile(self.path, np.uint8, view.end, offset=start)
            whole, first = torch.from_numpy(values).untyped_storage(), view.offset
        else:
            size = self.path.stat().st_size
            whole = torch.UntypedStorage.from_file(str(self.path), False, size)
            first = start // BYTES[view.dtype] + view.offset
        empty: Any = torch.empty(0, dtype=dtype)
        tensor: torch.Tensor = empty.set_(whole, first, view.shape, view.stride)
        return tensor[rows] if columns == ALL else tensor[rows, columns]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where in the file the storage of every tensor of floats begins."""
        places = self._contents.places
        return {
            name: places[value.storage.key][0]
            for name, value in self._state.items()
            if isinstance(value, View) and value.dtype in TORCH_FLOATS
        }

    @cached_property
    def _state(self) -> dict[str, Any]:
        """What the file holds by name, looked through what a trainer wraps it in."""
        state = self._contents.state
        if not isinstance(state, dict):
            raise self._damaged(f"it holds a {_kind(state)}, not a dictionary of tensors")
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
    def _contents(self) -> Contents:
        """The pickle, as descriptions, and the places of its storages, all within the file."""
        if kind_of(self.path) != "PyTorch":
            raise unreadable(self.path, "file of PyTorch", "torch.save writes no such file")
        try:
            found = contents(self.path)
        except zipfile.BadZipFile as error:
            raise unreadable(self.path, "file of PyTorch", error) from None
        except NamesCode as error:
            raise BadInput(
                f"{self.path} cannot be read as weights (loading it would run {error}, and llx "
                "runs no code of a file)",
                "convert it to safetensors in a sandbox, if you trust who made it, or use the "
                "model's safetensors files",
            ) from None
        except DAMAGE as error:
            raise self._damaged(str(error) or "it is damaged") from None
        for storage in storages_of(found.state):
            place = found.places.get(storage.key)
            if place is None or place[1] < storage.nbytes:
                raise self._damaged("the values of a tensor do not lie within it")
        return found

    def _damaged(self, why: str) -> BadInput:
        return BadInput(
            f"{self.path} cannot be read as weights ({one_line(why)})",
            "export from the model's safetensors files, or download it again if it was cut off",
        )


def _kind(value: Any) -> str:
    return value.word if isinstance(value, Name) else type(value).__name__


def _is_state(value: Any) -> bool:
    """Whether a value is a dictionary of tensors by name, as a model's state is."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(tensor, (View, Odd)) for name, tensor in value.items()
    )
