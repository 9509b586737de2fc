"""Checkpoints: one file for each format. `open_source` finds the format of a path."""

from __future__ import annotations

from pathlib import Path

from llx.errors import BadInput
from llx.exporter.sources.base import COLUMN_STEP, TensorInfo, TensorSource, Text, check_coverage
from llx.exporter.sources.gguf import GgufSource
from llx.exporter.sources.safetensors import SafetensorsSource

__all__ = ["COLUMN_STEP", "TensorInfo", "TensorSource", "Text", "check_coverage", "open_source"]


def open_source(path: Path) -> TensorSource:
    """Open a checkpoint: a Hugging Face folder, or a GGUF file.

    Raises `BadInput` where there is none, or where it is damaged or of another architecture.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist", "name a checkpoint's folder or a GGUF file")
    if path.is_file() and path.suffix == ".safetensors":
        path = path.parent
    if path.is_file():
        return GgufSource(path)
    if (path / "config.json").is_file():
        return SafetensorsSource(path)
    gguf_files = sorted(path.glob("*.gguf"))
    if len(gguf_files) == 1:
        return GgufSource(gguf_files[0])
    raise BadInput(
        f"{path} holds no checkpoint: neither a config.json nor one GGUF file",
        "name the folder that holds config.json and *.safetensors, or a GGUF file",
    )
