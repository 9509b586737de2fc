"""Hugging Face checkpoints: config.json beside safetensors files, or PyTorch's, one or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, read_text
from llx.exporter.sources.files import ALL, TensorFile, TorchFile, tensor_file
from llx.exporter.sources.find import FIRST, INDEX, find_weights, is_weights, some, weight_files
from llx.exporter.sources.ties import EMBEDDING, HEAD, same_values
from llx.exporter.vocabulary.folder import read_folder
from llx.exporter.vocabulary.templates import chat_template_of
from llx.llama.config import fused_from_config, spec_from_config
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Part, weights_of
from llx.nearby import absence, is_broken_link
from llx.typed import optional_json, read_json


class Place(NamedTuple):
    """Where a tensor lies: its file, its name there, and its rows of it where it is a part."""

    file: TensorFile
    stored: str
    rows: range | None = None

    @property
    def info(self) -> TensorInfo:
        """The tensor's shape and dtype."""
        whole = self.file.tensors[self.stored]
        if self.rows is None:
            return whole
        return replace(whole, shape=(len(self.rows), *whole.shape[1:]))

    def read(self, rows: slice, columns: slice) -> torch.Tensor:
        """The tensor, or a block of it: a view of the file."""
        if self.rows is not None:
            here = self.rows[rows]
            rows = slice(here.start, here.stop)
        return self.file.read(self.stored, rows, columns)


class HuggingFaceSource:
    """A folder with config.json and weights as safetensors or PyTorch's, in a file or in shards.

    `named`: the file of it that was named, which counts then instead of transformers' choice.
    """

    def __init__(
        self, path: Path, named: Path | None = None, warnings: list[str] | None = None
    ) -> None:
        self.path = path
        self.warnings = [] if warnings is None else warnings
        config = read_json(path / "config.json")
        self.spec: LlamaSpec = spec_from_config(config, self.warnings.append)
        self._fused = _fused_names(self.spec, fused_from_config(config))
        configured = config.get("transformers_weights")
        found = find_weights(path, named, configured if isinstance(configured, str) else None)
        self._shards = [tensor_file(file) for file in found.paths]
        pytorch = all(isinstance(shard, TorchFile) for shard in self._shards)
        self.format = "PyTorch" if pytorch else "safetensors"
        self.files = list(found.paths)
        unused = [file.name for file in weight_files(path) if file not in found.paths]
        if unused and not named:
            self.warnings.append(f"{found.name} is read, and not {some(unused)}, beside it")
        if found.guessed:
            self.warnings.append(
                f"{found.name} is read though no index names it: transformers looks for "
                f"{FIRST[0]} or {FIRST[1]}, and would refuse this folder"
            )
        for file in filter(is_broken_link, sorted(path.iterdir())):
            if is_weights(file) or file.name.endswith(INDEX):
                self.warnings.append(f"{file} {absence(file)}: it is not read")
        self.skipped: dict[str, str] = {}
        for shard in self._shards:
            self.skipped.update(shard.others)
        self._places = self._find(dict(found.where))

    def _find(self, where: Mapping[str, str]) -> dict[str, Place]:
        """Where each tensor lies, by the name that the model has for it."""
        wanted = {part.name for weight in weights_of(self.spec) for part in weight.parts} | {HEAD}
        for fused, parts in self._fused.items():
            wanted = wanted - {part.name for part in parts} | {fused}
        places: dict[str, Place] = {}
        for shard in self._shards:
            for stored in shard.tensors:
                name = _model_name(stored, wanted)
                if name in places:
                    self._require_same(places[name], Place(shard, stored))
                else:
                    places[name] = Place(shard, stored)
        stored_names = {place.stored for place in places.values()} | self.skipped.keys()
        for stored, file in where.items():
            if stored not in stored_names and _model_name(stored, wanted) in wanted - places.keys():
                raise BadInput(
                    f"{self.path / file} lacks {stored}, which the index says it holds",
                    "download that file again, or use the index that belongs to it",
                )
        if self.spec.tied and EMBEDDING not in places and HEAD in places:
            places[EMBEDDING] = places.pop(HEAD)  # of two that share values one is saved
        for fused in sorted(self._fused.keys() & places.keys()):
            split = self._split(fused, places.pop(fused))
            if twice := sorted(split.keys() & places.keys()):
                raise BadInput(
                    f"{self.path} holds {some(twice)}, and {fused}, which it is a part of",
                    "keep what belongs to one checkpoint, and only that",
                )
            places |= split
        return places

    def _split(self, fused: str, place: Place) -> dict[str, Place]:
        """The parts of a tensor that is stored as one. Raises `BadInput` for another shape."""
        parts, shape = self._fused[fused], place.info.shape
        needed = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        if shape != needed:
            names = ", ".join(part.name.split(".")[-2] for part in parts)
            raise BadInput(
                f"{self.path}: {place.stored} is {list(shape)} where the model needs "
                f"{list(needed)}, the rows of {names}",
                "use the config.json that belongs to these weights",
            )
        ends = list(accumulate((part.shape[0] for part in parts), initial=0))
        return {
            part.name: Place(place.file, place.stored, range(start, end))
            for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
        }

    def _require_same(self, one: Place, other: Place) -> None:
        """Raise `BadInput` where two tensors that mean the same one differ."""
        (file, stored, _), (other_file, other_stored, _) = one, other
        here, there = file.tensors[stored], other_file.tensors[other_stored]
        same = here == there and here.is_float
        if same and same_values(
            lambda rows: file.read(stored, rows),
            lambda rows: other_file.read(other_stored, rows),
            here.shape,
        ):
            self.skipped[f"{other_stored} in {other_file.path.name}"] = f"equal to {stored}"
            return
        names = stored if stored == other_stored else f"{stored}, which is {other_stored} too,"
        raise BadInput(
            f"{self.path}: {names} is in {file.path.name} and in {other_file.path.name}, with "
            "other values",
            "keep the files of one checkpoint in the folder, and only those",
        )

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of every shard, those of the model by the model's names."""
        return {name: place.info for name, place in self._places.items()}

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype: a view of the file."""
        return self._places[name].read(rows, columns)

    def text(self) -> Text | None:
        """The folder's tokenizer, with the template and end tokens named beside it."""
        text = read_text(lambda: read_folder(self.path, self.spec.vocab), self.warnings)
        if text is None:
            return None
        settings = optional_json(self.path / "tokenizer_config.json")
        template = chat_template_of(self.path, settings, self.warnings)
        return replace(text, chat_template=template)


def _fused_names(
    spec: LlamaSpec, fused: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[Part, ...]]:
    """The parts of each tensor that the family stores as one, by that one's name."""
    shapes = {part.name: part for weight in weights_of(spec) for part in weight.parts}
    return {
        f"model.layers.{layer}.{module}.{kind}": tuple(
            shapes[f"model.layers.{layer}.{part}.{kind}"] for part in parts
        )
        for layer in range(spec.layers)
        for module, parts in fused.items()
        for kind in ("weight", "bias")
        if f"model.layers.{layer}.{parts[0]}.{kind}" in shapes
    }


def _model_name(stored: str, wanted: set[str]) -> str:
    """The model's name of a tensor: transformers drops one `model.` too many, or adds one too few.

    As in `rename_source_key` of its core_model_loading.
    """
    fewer = stored.removeprefix("model.")
    if fewer != stored and fewer in wanted:
        return fewer
    return f"model.{stored}" if f"model.{stored}" in wanted else stored
