"""The dialects. A new one is a file beside this and a line here."""

from __future__ import annotations

from llx.graphs.dialects.standard import STANDARD
from llx.graphs.semantic import Dialect

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (STANDARD,)}
