"""Hugging Face checkpoints: config.json beside safetensors files, or PyTorch's, one or several."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llx.artifact import TextRecord
from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, read_json
from llx.exporter.sources.files import ALL, SafetensorsFile, TensorFile, TorchFile
from llx.exporter.vocabulary.read import read_folder
from llx.files import is_plain_name
from llx.llama.config import spec_from_config
from llx.llama.spec import LlamaSpec

# In order of preference: the format, its one file, its index, what else may lie there, its reader.
FORMATS: tuple[tuple[str, str, str, str, type[SafetensorsFile] | type[TorchFile]], ...] = (
    (
        "safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
        "*.safetensors",
        SafetensorsFile,
    ),
    (
        "PyTorch",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-*.bin",
        TorchFile,
    ),
)


class HuggingFaceSource:
    """A folder with config.json and model.safetensors or pytorch_model.bin, single or sharded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.spec: LlamaSpec = spec_from_config(
            read_json(path / "config.json"), self.warnings.append
        )
        self.format, self._shards = self._find()

    @property
    def files(self) -> list[Path]:
        """The weights' files, in order of name."""
        return [shard.path for shard in self._shards]

    def _find(self) -> tuple[str, list[TensorFile]]:
        for name, single, index, pattern, reader in FORMATS:
            if (self.path / index).is_file():
                paths = self._named_by(self.path / index)
            elif (self.path / single).is_file():
                paths = [self.path / single]
            else:
                paths = sorted(self.path.glob(pattern))
            if paths:
                return name, [reader(path) for path in paths]
        raise BadInput(
            f"{self.path / 'model.safetensors'} is missing", "download the whole checkpoint"
        )

    def _named_by(self, index: Path) -> list[Path]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput(f"{index} has no weight_map", "download it again")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if not is_plain_name(name):
                raise BadInput(
                    f"{index} names {name!r}, outside its folder",
                    "use an index whose files lie beside it",
                )
            if not (self.path / name).is_file():
                raise BadInput(f"{self.path / name} is missing", "download the whole checkpoint")
        return [self.path / name for name in names]

    @cached_property
    def _places(self) -> dict[str, TensorFile]:
        places: dict[str, TensorFile] = {}
        for shard in self._shards:
            for name in shard.tensors:
                if name in places:
                    raise BadInput(
                        f"{name} is in {places[name].path.name} and in {shard.path.name}",
                        "keep the files of one checkpoint in the folder, and only those",
                    )
                places[name] = shard
        return places

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of every shard."""
        return {name: shard.tensors[name] for name, shard in self._places.items()}

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""
        return self._places[name].read(name, rows, columns)

    def text(self) -> Text | None:
        """The folder's tokenizer, with the template and end tokens named beside it."""
        found = read_folder(self.path, self.spec.vocab)
        if found is None:
            return None
        settings = self._optional_json("tokenizer_config.json")
        ends = self._optional_json("generation_config.json").get("eos_token_id")
        if ends is None:
            ends = self._optional_json("config.json").get("eos_token_id")
        if ends is None:
            ends = [*found.record.eos_ids]
        record = TextRecord(
            eos_ids=tuple(ends) if isinstance(ends, list) else (ends,),
            bos_token=_token_text(settings.get("bos_token")) or found.record.bos_token,
            eos_token=_token_text(settings.get("eos_token")) or found.record.eos_token,
        )
        return Text(found.tokenizer, record, self._template(settings))

    def _template(self, settings: Mapping[str, Any]) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):  # several by name: the one called default
            template = {t.get("name"): t.get("template") for t in template}.get("default")
        return template if isinstance(template, str) else None

    def _optional_json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name) if (self.path / name).is_file() else {}


def _token_text(token: Any) -> str:
    """A special token's text: older files wrap it in an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
