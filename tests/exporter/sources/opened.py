"""A checkpoint that was opened and is covered, or the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llx.errors import BadInput
from llx.exporter.sources import TensorSource, check_coverage, open_source


def opened(path: Path, *more: Any) -> TensorSource | BadInput:
    """The source of a checkpoint, or why not, which is one line."""
    try:
        source = open_source(path, *more)
        check_coverage(source)
    except BadInput as refused:
        found: TensorSource | BadInput = refused
    else:
        found = source
    assert "\n" not in str(found)
    return found
