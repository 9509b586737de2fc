"""Values of a file that anybody may have written, each held to its type and range."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from llx.errors import BadInput
from llx.files import is_lfs_pointer, lfs_pointer
from llx.nearby import absence, is_broken_link

Fields = TypeVar("Fields", bound=msgspec.Struct)

MOST_JSON_BYTES = 64 << 20

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


class NewerSchema(BadInput):
    """A file was written by a version of llx to come. Exit code 2."""


def refuse_newer(path: Path, data: bytes, name: str, known: int = 1) -> None:
    """Raise `NewerSchema` where a file's JSON says that it is of a schema to come."""
    if newer := _newer_schema(data, name, known):
        raise NewerSchema(
            f"{path} was written by a newer llx ({newer})",
            "upgrade llx, from where this one was installed",
        ) from None


def _newer_schema(data: bytes, name: str, known: int) -> str | None:
    """The schema that JSON says it is of, where that is one to come: `llx.result/2` after 1.

    Of an object, or of any of a list or of lines.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = [_loaded(line) for line in data.splitlines()]
    for one in value if isinstance(value, list) else [value]:
        schema = one.get("schema") if isinstance(one, dict) else None
        version = re.fullmatch(re.escape(name) + r"/([0-9]{1,9})", str(schema), re.ASCII)
        if version and int(version[1]) > known:
            return str(schema)
    return None


def _loaded(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of moderate size, in UTF-8. Raises `BadInput` for anything else.

    Strict where transformers is: a byte order mark or another encoding is none that it reads. As
    there, NaN is a number, and of a key that stands there twice the last one counts.
    """
    if is_broken_link(path):
        raise BadInput(f"{path} {absence(path)}", "mend the link, or put the file itself there")
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise BadInput(
                f"{path} has more than {MOST_JSON_BYTES >> 20} MiB: too much for JSON of a model",
                "use the checkpoint's own file of that name",
            )
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})", "make it readable") from None
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _no_json(path, data, error) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object", "use the checkpoint's own file of that name")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """As `read_json`; empty where there is no file. A link to nothing is not none."""
    return read_json(path) if path.is_file() or is_broken_link(path) else {}


def _no_json(path: Path, data: bytes, error: Exception) -> BadInput:
    """The error for a file that is no JSON: what it is instead, and what mends that."""
    if is_lfs_pointer(path):
        return lfs_pointer(path)
    if data.lstrip()[:1] == b"<":
        return BadInput(
            f"{path} is a web page, not JSON", "download it again, the file and not its page"
        )
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return BadInput(f"{path} begins with a byte order mark", "save it as UTF-8 without one")
    if isinstance(error, UnicodeDecodeError):
        return BadInput(f"{path} is not readable JSON (not in UTF-8)", "save it as UTF-8")
    if isinstance(error, RecursionError):
        return BadInput(
            f"{path} is not readable JSON (nested too deeply)", "use the checkpoint's own"
        )
    cut = isinstance(error, json.JSONDecodeError) and not error.doc[error.pos :].strip()
    cut = cut or "Unterminated string" in str(error)
    remedy = "download it again: it is cut off" if cut else "correct it there"
    return BadInput(f"{path} is not readable JSON ({error})", remedy)
