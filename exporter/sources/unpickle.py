"""The pickle of a file of PyTorch, read as descriptions: nothing of it is called, or is a tensor.

A pickle is a program, and PyTorch believes what it says of sizes, strides and byte order. Here the
names of a pickle stand for functions of this module, which note what a tensor would be; every other
name is refused. Python's own unpickler runs the rest, with the few opcodes left out that allocate
or recurse as they are told.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251  only its machine, with every name and object replaced
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import IO, Any, ClassVar

MOST_DIMENSIONS = 16
# What a storage's class is of, as PyTorch names both, and the bytes of a value.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}
BYTES = {"complex128": 16, "complex64": 8, "qint8": 1, "quint8": 1, "qint32": 4, "bool": 1}
BYTES |= {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "uint16": 2, "uint32": 4}
BYTES |= {"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint64": 8, "complex32": 4}
BYTES |= dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1)
BYTES |= {"float8_e8m0fnu": 1}


class Damaged(ValueError):
    """The pickle is not what `torch.save` writes of tensors."""


class NamesCode(Damaged):
    """The pickle names what is no part of a tensor, to call it: `str` of it is the name."""


@dataclass(frozen=True)
class Storage:
    """Values that tensors look at: so many of a dtype, in the part of the file called `key`."""

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.count * BYTES[self.dtype]


@dataclass(frozen=True)
class View:
    """A strided tensor over a storage; offset and strides in values of its dtype."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte of the storage behind the last one that it looks at."""
        steps = zip(self.shape, self.stride, strict=True)
        extent = 1 + sum((n - 1) * step for n, step in steps) if prod(self.shape) else 0
        return (self.offset + extent) * BYTES[self.dtype]


@dataclass(frozen=True)
class Odd:
    """A tensor that is not read: sparse, quantized, of no values."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Name:
    """A name of a pickle, such as a dtype, and an object made by calling it: inert both."""

    word: str

    def __call__(self, *_: Any, **__: Any) -> Name:
        """What a call would have made, by the same word."""
        return Name(self.word)


def load(file: IO[bytes], size: int) -> Any:
    """The next object of a pickle that ends before byte `size` of a file.

    Tensors in it are `View`s and `Odd`s. Raises `Damaged`, or what Python's unpickler raises.
    """
    return _Unpickler(_Limited(file, size)).load()


class _Limited:
    """A file of which no more can be asked than there is: what is asked for is allocated first."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._size - self._file.tell():
            raise Damaged("it ends within a value")
        return self._file.read(count)


MACHINE: Any = pickle._Unpickler  # Python's own: its opcodes are a table, its memo a dictionary


class _Unpickler(MACHINE):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(MACHINE.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        made = _named(module, name)
        if made is None:
            raise NamesCode(f"{module}.{name}")
        return made

    def persistent_load(self, saved: Any) -> Storage:
        match saved:
            case ("storage", Name(kind), str(key), str(), int(count), *rest):
                if kind in STORAGES and 0 <= count < 1 << 60 and rest in ([], [None]):
                    return Storage(key, STORAGES[kind], count)
        raise Damaged("it holds a storage of no kind that PyTorch writes")

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Damaged("it sets an entry of what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_plain_key(key)] = value

    def set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_many(self) -> None:
        self._set(self.pop_mark())

    def build(self) -> None:
        self.stack.pop()  # the attributes of an object that is none here

    def refuse(self) -> None:
        raise Damaged("it holds what torch.save does not write")

    dispatch[pickle.SETITEM[0]] = set_one
    dispatch[pickle.SETITEMS[0]] = set_many
    dispatch[pickle.BUILD[0]] = build
    for _opcode in (
        *(pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.DICT),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    ):
        dispatch[_opcode[0]] = refuse


def _plain_key(key: Any) -> Any:
    """A key that hashing walks through no deep nest for: Python's tuples recurse in C."""
    if not isinstance(key, (str, int, float, bytes, type(None))):
        raise Damaged("it has a dictionary whose keys are no names")
    return key


def _ordered(*pairs: Any) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    for pair in pairs[0] if pairs and isinstance(pairs[0], list) else ():
        key, value = pair
        made[_plain_key(key)] = value
    return made


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> View:
    """As `torch._utils._rebuild_tensor_v2`: hooks and whether it is trained are left out."""
    if not isinstance(storage, Storage):
        raise Damaged("it holds a tensor of no storage")
    return _checked(View(storage, storage.dtype, offset, _sizes(shape), _sizes(stride)))


def _view_of(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> View:
    """As `torch._utils._rebuild_tensor_v3`, whose storage has no dtype."""
    if not isinstance(storage, Storage) or len(more) < 3 or not isinstance(more[2], Name):
        raise Damaged("it holds a tensor of no storage")
    return _checked(View(storage, more[2].word, offset, _sizes(shape), _sizes(stride)))


def _checked(view: View) -> View:
    whole = type(view.offset) is int and 0 <= view.offset < 1 << 60
    if view.dtype not in BYTES or not whole or len(view.shape) != len(view.stride):
        raise Damaged("it holds a tensor that is none")
    if view.end > view.storage.nbytes:
        raise Damaged("a tensor does not lie within its storage")
    return view


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else None
    if (
        sizes is None
        or len(sizes) > MOST_DIMENSIONS
        or any(type(size) is not int or not 0 <= size < 1 << 60 for size in sizes)
    ):
        raise Damaged("it holds a tensor of impossible sizes")
    return sizes


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _typed(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """As `torch._tensor._rebuild_from_type_v2`: a tensor of a class of its own."""
    if function not in (_view, _view_of, _parameter) or not isinstance(arguments, tuple):
        raise Damaged("it holds a tensor of an unknown class")
    return function(*arguments)


def _sparse(layout: Any, data: Any) -> Odd:
    """As `torch._utils._rebuild_sparse_tensor`: indices, values and the shape, in that order."""
    parts = data if isinstance(data, tuple) else ()
    shape = next((part for part in parts[2:] if isinstance(part, tuple)), None)
    tensors = [part for part in parts if isinstance(part, View)]
    if shape is None or not tensors or not isinstance(layout, str):
        raise Damaged("it holds a sparse tensor that is none")
    return Odd(_sizes(shape), f"{tensors[-1].dtype} ({layout})")


def _quantized(storage: Any, offset: Any, shape: Any, *_: Any) -> Odd:
    return Odd(_sizes(shape), storage.dtype if isinstance(storage, Storage) else "quantized")


def _without_values(dtype: Any, shape: Any, *_: Any) -> Odd:
    return Odd(_sizes(shape), f"{dtype.word} (meta)" if isinstance(dtype, Name) else "meta")


def _size(value: Any = ()) -> tuple[int, ...]:
    return _sizes(value)


def _layout(name: Any) -> str:
    return name if isinstance(name, str) else ""


FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_tensor_v3"): _view_of,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._utils", "_rebuild_qtensor"): _quantized,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _without_values,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch.serialization", "_get_layout"): _layout,
}
# What else may stand beside weights, and is told as what it is called.
OTHERS = {
    ("torch", "device"),
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    ("torch._utils", "_rebuild_nested_tensor"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("_codecs", "encode"),
    ("collections", "Counter"),
    ("builtins", "set"),
}


def _named(module: str, name: str) -> Any:
    """What a name of a pickle stands for here; None where it is none of these."""
    if (module, name) in FUNCTIONS:
        return FUNCTIONS[module, name]
    if module in ("torch", "torch.storage") and name in STORAGES:
        return Name(name)
    quantizers = ("per_tensor_affine", "per_channel_affine")
    if module == "torch" and (name in BYTES or name in quantizers):
        return Name(name)
    return Name(name) if (module, name) in OTHERS else None


def loads(data: bytes) -> Any:
    """As `load`, of bytes."""
    return load(io.BytesIO(data), len(data))
