"""What a graph that OpenVINO has read spells, held to what is expected of it, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray


class Unlike(ValueError):
    """A graph that computes something else than the dialect spells.

    A node with more inputs than are expected of it raises `ValueError` itself, where they are told
    apart.
    """


def ints(*values: int) -> NDArray[np.int64]:
    """A vector of int64: axes, sizes, an order."""
    return np.array(values, dtype=np.int64)


def only_user(value: ov.Output) -> ov.Node:
    """The one node that takes a value."""
    users = value.get_target_inputs()
    require(len(users) == 1)
    return next(iter(users)).get_node()


def inputs(value: ov.Output, op: str, **attributes: int) -> list[ov.Output]:
    """What the node that gives a value takes. Raises `Unlike` where it is another node."""
    node = value.get_node()
    require(node.get_type_name() == op)
    has = node.get_attributes()
    flipped = has.get("transpose_a", False) or has.get("transpose_b", False)
    require(not flipped and all(has[name] == wanted for name, wanted in attributes.items()))
    return list(node.input_values())


def sliced(value: ov.Output, start: int, end: int) -> ov.Output:
    """What a value is sliced from, from `start` to `end` of its last axis in steps of 1."""
    of, begin, stop, step, axis = inputs(value, "Slice")
    for given, wanted in ((begin, start), (stop, end), (axis, 3)):
        require_constant(given, ints(wanted))
    # OpenVINO's reader gives a Slice without steps ones in the shape of its starts.
    ones, _ = inputs(step, "Broadcast")[:2]
    require(value_of(ones).tolist() == [1])
    return of


def uncast(value: ov.Output) -> ov.Output:
    """The value before its Convert: fp16's softmax is taken in fp32."""
    node = value.get_node()
    return node.input_value(0) if node.get_type_name() == "Convert" else value


def value_of(value: ov.Output) -> NDArray[Any]:
    """A constant's value; of what the reader has put on top of one, such as a Convert, as well."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    require(node.get_type_name() == "Constant")
    return np.asarray(node.data)


def require_constant(value: ov.Output, wanted: NDArray[Any]) -> None:
    """Raise `Unlike` unless a value is a constant of these numbers, in whatever shape."""
    found = value_of(value)
    require(found.size == wanted.size and np.array_equal(found.ravel(), wanted.ravel()))


def require_same(*pairs: Sequence[ov.Output]) -> None:
    """Raise `Unlike` unless the values of each pair are one."""
    for one, other in pairs:
        require(one == other)


def type_of(value: ov.Output) -> ov.Type:
    """The type of a value."""
    return value.get_element_type()


def sizes_of(value: ov.Output) -> list[int]:
    """The four sizes of a value, -1 where the graph leaves them open."""
    shape = value.get_partial_shape()
    require(shape.rank.is_static and len(shape) == 4)
    return [size.get_length() if size.is_static else -1 for size in shape]


def require(holds: bool) -> None:
    """Raise `Unlike` unless something holds."""
    if not holds:
        raise Unlike
