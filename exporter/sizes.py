"""A model's sizes, from a checkpoint of which as little is read as says them."""

from __future__ import annotations

from pathlib import Path

from llx.errors import BadInput, require_modules
from llx.exporter.locate import HUB_ID, config_from_hub
from llx.llama.config import spec_from_config
from llx.llama.presets import PRESETS
from llx.llama.spec import LlamaSpec
from llx.nearby import is_broken_link, no_such
from llx.typed import read_json

CONFIG = "config.json"
REMEDY = "name a checkpoint, an artifact, or a model with --size or --model"


def sizes_of(weights: str | Path) -> tuple[str, LlamaSpec]:
    """A name and the sizes of a checkpoint's folder or file, or of an id of the hub.

    Of a folder in Hugging Face's format and of the hub's config.json is read alone: whether weights
    lie there does not matter. Raises `BadInput` where there is none, `Lacking` where the hub cannot
    be reached or the packages that read another format are missing.
    """
    path = Path(weights)
    if not str(weights).strip():
        raise BadInput("an empty name is no checkpoint", REMEDY)
    if not path.exists() and not is_broken_link(path):
        if isinstance(weights, str) and HUB_ID.fullmatch(weights):
            return weights.split("/")[-1].lower(), spec_from_config(
                read_json(config_from_hub(weights))
            )
        raise no_such(path, _hint(str(weights)))
    name = (path.parent if path.is_file() and path.suffix != ".gguf" else path).resolve().stem
    if path.is_dir() and (path / CONFIG).is_file():
        return path.resolve().name.lower(), spec_from_config(read_json(path / CONFIG))
    require_modules("a checkpoint in another format than Hugging Face's", "export", "torch", "gguf")
    from llx.exporter.sources import open_source

    return name.lower(), open_source(path).spec


def _hint(name: str) -> str:
    """What may be meant by a name that is no path."""
    if any(name.lower() == preset.size for preset in PRESETS):
        return f"for the model of that size give --size {name.lower()}"
    if any(name.lower() == preset.name for preset in PRESETS):
        return f"for the model of that name give --model {name.lower()}"
    return REMEDY
