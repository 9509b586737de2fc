"""The dialects. A new one is a file beside this and a line here."""

from __future__ import annotations

from llx.errors import BadInput
from llx.graphs.dialects.ort import ORT
from llx.graphs.dialects.primitive import PRIMITIVE
from llx.graphs.dialects.standard import STANDARD
from llx.graphs.semantic import Dialect

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (STANDARD, PRIMITIVE, ORT)}

# Those that are ONNX's own alone, which any runtime reads.
PLAIN: tuple[str, ...] = tuple(name for name, found in DIALECTS.items() if not found.domains)


def dialect_named(name: str) -> Dialect:
    """The dialect that a graph's file is named after. Raises `BadInput` for an unknown one."""
    if name not in DIALECTS:
        raise BadInput(
            f"unknown dialect {name!r}", f"export again: this version knows {', '.join(DIALECTS)}"
        )
    return DIALECTS[name]
