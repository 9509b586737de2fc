"""Checkpoints: one file for each format. `open_source` finds the format of a path."""

from __future__ import annotations

from pathlib import Path

from llx.errors import BadInput
from llx.exporter.sources.base import COLUMN_STEP, TensorInfo, TensorSource, Text, check_coverage
from llx.exporter.sources.gguf import GgufSource
from llx.exporter.sources.huggingface import HuggingFaceSource
from llx.exporter.sources.meta import PARAMS, SHARDS, MetaSource
from llx.llama.spec import LlamaSpec

__all__ = ["COLUMN_STEP", "TensorInfo", "TensorSource", "Text", "check_coverage", "open_source"]


def open_source(
    path: Path, spec: LlamaSpec | None = None, context: int | None = None
) -> TensorSource:
    """Open a checkpoint: a Hugging Face folder, one in Meta's format, or a GGUF file.

    `spec` is what is known of the model beforehand, and `context` the positions that are asked for:
    Meta's format does not say everything itself.
    Raises `BadInput` where there is none, or where it is damaged or of another architecture.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist", "name a checkpoint's folder or a GGUF file")
    if path.is_file() and path.suffix in (".safetensors", ".bin", ".pth", ".json"):
        path = path.parent
    if path.is_file():
        return GgufSource(path)
    if (path / "config.json").is_file():
        return HuggingFaceSource(path)
    if (path / PARAMS).is_file() and any(path.glob(SHARDS)):
        return MetaSource(path, spec, context)
    gguf_files = sorted(path.glob("*.gguf"))
    if len(gguf_files) == 1:
        return GgufSource(gguf_files[0])
    raise BadInput(
        f"{path} holds no checkpoint: no config.json, no params.json, not one GGUF file",
        "name the folder that holds config.json and *.safetensors, or a GGUF file",
    )
