"""Adapters (LoRA and its kin, as peft saves them): changes to a model, which are no model."""

from __future__ import annotations

import re
from pathlib import Path

from llx.errors import BadInput
from llx.exporter.sources.find import FIRST, weight_files
from llx.exporter.sources.gguf_parts import gguf_sets
from llx.typed import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.*"
# How peft names tensors of adapters, and of a model that has one within (`peft/utils/constants.py`,
# `peft/tuners`), and llama.cpp those of a LoRA.
TENSORS = re.compile(
    r"^base_model\.model\.|\.base_layer\.|\.modules_to_save\."
    r"|[._]lora_(a|b|A|B|embedding|magnitude|E)\b|\.ia3_l\b|\.(hada_w|lokr_w|oft_|boft_|vera_)"
)
MERGE = (
    "merge it into its base with peft and export what that saves: AutoPeftModelForCausalLM"
    ".from_pretrained(ADAPTER).merge_and_unload().save_pretrained(FOLDER)"
)


def require_no_adapter(folder: Path) -> None:
    """Raise `BadInput` where a folder holds an adapter, alone or beside a model.

    transformers with peft loads an adapter onto the model that it lies beside; without peft it does
    not. What is meant is for the user to say.
    """
    config, weights = folder / CONFIG, sorted(folder.glob(WEIGHTS))
    if not config.is_file() and not (weights and not _models(folder)):
        return
    base = ""
    if config.is_file():
        named = read_json(config).get("base_model_name_or_path")
        base = f" for {named}" if isinstance(named, str) and named else ""
    models = _models(folder)
    if not models:
        raise BadInput(f"{folder} holds an adapter{base}, not a model", MERGE)
    adapter = weights[0].name if weights else CONFIG
    raise BadInput(
        f"{folder} holds an adapter{base} ({adapter}) beside a model ({models[0].name})",
        f"to export both as one, {MERGE}; to export the model without it, name its file: "
        f"--weights {models[0]}",
    )


def is_adapters(name: str) -> bool:
    """Whether a tensor's name is one that adapters bring."""
    return bool(TENSORS.search(name))


def _models(folder: Path) -> list[Path]:
    """What may be a whole model beside an adapter, the file that transformers takes first."""
    first = [folder / name for name in FIRST if (folder / name).is_file()]
    return first + weight_files(folder) + [paths[0] for paths in gguf_sets(folder)]
