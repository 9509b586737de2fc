"""Values of a file that anybody may have written, each held to its type and range."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from llx.errors import BadInput

Fields = TypeVar("Fields", bound=msgspec.Struct)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2
_SHORT.maxlist = _SHORT.maxdict = 4


def shown(value: object) -> str:
    """An untrusted value for a message: short, on one line, nothing in it but printable text."""
    return _SHORT.repr(value)


def plainly(value: object) -> str:
    """The same without quotes, for a name in a sentence."""
    return shown(value).strip("'\"")


def typed(values: Mapping[str, Any], kind: type[Fields], place: str, remedy: str) -> Fields:
    """The fields of `kind` among `values`; other keys are left alone.

    A field is checked by itself, so that `BadInput` names it: `place` is what it is a part of, such
    as "config.json's ". Nothing is converted that JSON tells apart: no text, boolean or null is a
    number, and a number with a decimal point is no integer.
    """
    found = {}
    for field in msgspec.structs.fields(kind):
        key = field.encode_name
        if key in values:
            found[field.name] = checked(values[key], field.type, f"{place}{key}", remedy)
        elif field.required:
            raise BadInput(f"{place}{key} is missing", remedy)
    return kind(**found)


def checked(value: object, kind: Any, name: str, remedy: str) -> Any:
    """A value of a type that msgspec knows. Raises `BadInput` with its name for any other."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason = str(error)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        reason = "Expected text that is Unicode"
    raise BadInput(f"{name} is {shown(value)} ({reason[0].lower()}{reason[1:]})", remedy)
