"""Arguments of public functions, each held to the type that its signature names.

A value of another type is named at the door, as a user's error, and not by whatever trips over it
further in.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from llx.errors import BadInput
from llx.typed import shown

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

WORDS = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "True or False",
    Path: "a path",
    type(None): "None",
}


def door(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Check the arguments of a function before it is called; see `require_types`."""

    @functools.wraps(function)
    def checked(*arguments: Given.args, **named: Given.kwargs) -> Answer:
        bound = signature_of(function).bind(*arguments, **named)
        require_types(function, bound.arguments)
        bound.arguments |= {name: _plain(value) for name, value in bound.arguments.items()}
        return function(*bound.args, **bound.kwargs)

    return checked


def _plain(value: object) -> object:
    """A number of NumPy's as Python's own, which every encoder knows."""
    if type(value).__module__ != "numpy":
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def require_types(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raise `BadInput`, with the argument's name, where one is not of the type that is said."""
    hints = _hints_of(function)
    for name, value in given.items():
        several = signature_of(function).parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        values = value if several and isinstance(value, tuple) else (value,)
        for one in values:
            if name in hints and not fits(one, hints[name]):
                words = in_words(hints[name])
                called = function.__qualname__
                raise BadInput(f"{called}: {name} is {shown(one)}", f"give {words}")


@functools.cache
def signature_of(function: Callable[..., object]) -> inspect.Signature:
    """The signature, read once."""
    return inspect.signature(function)


@functools.cache
def _hints_of(function: Callable[..., object]) -> dict[str, Any]:
    """The types of the arguments. What it returns may be known to type checkers alone."""
    said = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    return typing.get_type_hints(
        types.SimpleNamespace(__annotations__=said), inspect.unwrap(function).__globals__
    )


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type as annotations write it. An integer is a number, too."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:  # an array is equal to nothing as a whole
        return any(isinstance(value, type(part)) and value == part for part in parts)
    if kind is tuple:
        several = isinstance(value, (tuple, list)) and len(value) == len(parts)
        return several and all(map(fits, typing.cast("Sequence[object]", value), parts))
    if isinstance(kind, type) and issubclass(kind, Iterable):
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__"):
            return False
        return hasattr(value, "__iter__") and all(fits(one, parts[0]) for one in value)
    if kind is not None or getattr(hint, "_is_protocol", False):
        return callable(value)
    if hint in (bool, int, float):
        return _is_number(value, hint)
    if hint is Path:
        return isinstance(value, os.PathLike)
    return hint is Any or isinstance(value, hint)


def _is_number(value: object, kind: type) -> bool:
    """NumPy's own count as well; True is no number."""
    truth = type(value).__name__ in ("bool", "bool_")
    if kind is bool or truth:
        return kind is bool and truth
    return isinstance(value, numbers.Integral if kind is int else numbers.Real)


def in_words(hint: Any) -> str:
    """A type as a reader has it: "a text, a path or None"."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        words = list(dict.fromkeys(map(in_words, parts)))
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if kind is tuple:
        return f"a pair of {in_words(parts[0])} and {in_words(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, Iterable):
        return f"a list, of which each is {in_words(parts[0])}"
    if kind is not None or getattr(hint, "_is_protocol", False):
        return "a function"
    return WORDS.get(hint) or f"an object of llx.{getattr(hint, '__name__', hint)}"
