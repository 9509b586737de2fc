"""Hugging Face checkpoints: config.json beside one or several safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llx.artifact import TextRecord
from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text
from llx.exporter.vocabulary import read_folder
from llx.files import is_plain_name
from llx.llama.spec import LlamaSpec, spec_from_config

INDEX = "model.safetensors.index.json"
FLOATS = {"F64", "F32", "F16", "BF16"}


class SafetensorsSource:
    """A folder with config.json and model.safetensors, single or sharded by an index."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec: LlamaSpec = spec_from_config(_read_json(path / "config.json"))

    @cached_property
    def files(self) -> list[Path]:
        """The safetensors files, in order of name."""
        if (self.path / INDEX).is_file():
            weight_map = _read_json(self.path / INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise BadInput(f"{self.path / INDEX} has no weight_map", "download it again")
            names = sorted({str(name) for name in weight_map.values()})
            outside = [name for name in names if not is_plain_name(name)]
            if outside:
                raise BadInput(
                    f"{self.path / INDEX} names {outside[0]!r}, outside its folder",
                    "use an index whose files lie beside it",
                )
            files = [self.path / name for name in names]
        else:
            files = sorted(self.path.glob("*.safetensors"))
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            raise BadInput(
                f"{missing[0] if missing else self.path / 'model.safetensors'} is missing",
                "download the whole checkpoint",
            )
        return files

    @cached_property
    def _places(self) -> dict[str, Path]:
        return {name: file for file in self.files for name in _open(file).keys()}

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of every shard."""
        infos = {}
        for path in self.files:
            file = _open(path)
            for name in file.keys():
                view = file.get_slice(name)
                if view.get_dtype() not in FLOATS:
                    raise BadInput(
                        f"{name} is stored as {view.get_dtype()}, not as a float",
                        "export from the checkpoint before it was quantized",
                    )
                infos[name] = TensorInfo(tuple(view.get_shape()), view.get_dtype())
        return infos

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype.

        The file is opened anew each time: its pages count as memory for as long as it is mapped.
        """
        view = _open(self._places[name]).get_slice(name)
        block: torch.Tensor = view[rows] if columns == slice(None) else view[rows, columns]
        return block.clone(memory_format=torch.contiguous_format)

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
        return _read_json(self.path / name) if (self.path / name).is_file() else {}


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"{file} is not a whole safetensors file ({error})", "download it again"
        ) from None


def _token_text(token: Any) -> str:
    """A special token's text: older files wrap it in an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not readable JSON ({error})", "download it again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object", "download it again")
    return value
