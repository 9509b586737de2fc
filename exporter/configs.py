"""The checkpoint's own config.json and generation_config.json, which an artifact carries as data.

llx reads neither there: they are for other programs, and for whoever wants to know.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llx.errors import BadInput
from llx.manifest import CONFIGS
from llx.nearby import is_broken_link
from llx.typed import read_json

# Absolute in any system, or of somebody's home: where a checkpoint lay is nobody's business.
PLACE = re.compile(r"\s*(/|~|\\\\|file:|[A-Za-z]:[\\/])", re.ASCII)
NAMES = ("name_or_path", "_name_or_path")  # of the folder that a checkpoint was loaded from


def configs_of(checkpoint: Path) -> dict[str, bytes]:
    """The files that lie beside a checkpoint's weights, by name, without any place in a machine.

    One that cannot be read is left out: what an export needs of it has been read, or was told of.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    found = {}
    for name in CONFIGS:
        path = folder / name
        if not path.is_file() or is_broken_link(path):
            continue
        try:
            value = _without_places(read_json(path))
            found[name] = f"{json.dumps(value, indent=2)}\n".encode()
        except (BadInput, RecursionError):
            continue
    return found


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_places(one)
            for key, one in value.items()
            if key not in NAMES and not _is_place(one)
        }
    if isinstance(value, list):
        return [_without_places(one) for one in value if not _is_place(one)]
    return value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and PLACE.match(value) is not None
