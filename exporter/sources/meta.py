"""Meta's original checkpoints: params.json beside consolidated.NN.pth, in one shard or many.

The layout is that of the published `llama` reference code: shards come from model parallelism,
so q, k, v, gate, up and the output are split by rows, o and down by columns, the embedding by
columns (Llama 1 and 2) or rows (Llama 3), and norms are in every shard alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, interleaved_rows, read_text
from llx.exporter.sources.files import ALL, TorchFile
from llx.exporter.sources.meta_params import params_of, require_agreement, spec_of
from llx.exporter.vocabulary.folder import read_folder
from llx.llama.spec import LlamaSpec
from llx.typed import read_json

SHARD = re.compile(r"consolidated\.(\d\d)\.pth", re.ASCII)
MOST_SHARDS = 100  # two digits number them
PARAMS = "params.json"
# Meta's names by Hugging Face's, outside of and within a block, and the axis that shards split.
OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
SPLIT_BY_COLUMNS = ("o_proj.weight", "down_proj.weight")


class MetaSource:
    """A folder with params.json and consolidated.00.pth, consolidated.01.pth, …."""

    format = "Meta"

    def __init__(
        self,
        path: Path,
        spec: LlamaSpec | None,
        context: int | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        self.path = path
        self.warnings = [] if warnings is None else warnings
        self._params: dict[str, Any] = read_json(path / PARAMS)
        self.files = shards_of(path)
        self._require_shards()
        self._shards = [TorchFile(file) for file in self.files]
        self._require_shards(self._shards_by_shape(spec))
        self.spec = self._read_spec(spec, context)
        self.skipped = {name: what for shard in self._shards for name, what in shard.others.items()}

    def _shards_by_shape(self, spec: LlamaSpec | None) -> int:
        """Into how many shards the queries' rows were split, or 0 where that cannot be told."""
        queries = self._shards[0].tensors.get("layers.0.attention.wq.weight")
        whole = spec.q_dim if spec else self._params.get("dim")
        if queries is None or not any(queries.shape[:1]) or not isinstance(whole, int):
            return 0
        return 0 if whole % queries.shape[0] else whole // queries.shape[0]

    def _require_shards(self, count: int = 0) -> None:
        """Raise `BadInput` where shards are missing: of `count`, or between those that are here."""
        here = [file.name for file in self.files]
        count = max(min(count, MOST_SHARDS), int(here[-1].split(".")[1]) + 1)
        names = (f"consolidated.{n:02}.pth" for n in range(count))
        missing = [name for name in names if name not in here]
        if missing:
            raise BadInput(
                f"{self.path / missing[0]} is missing: of {count} shards {len(here)} are here",
                "download the whole checkpoint",
            )

    @cached_property
    def _stored(self) -> dict[str, str]:
        """Meta's name of every tensor, by Hugging Face's."""
        names = {_hugging_face_name(name): name for name in self._shards[0].tensors}
        for shard in self._shards[1:]:
            if set(shard.tensors) != set(names.values()):
                raise BadInput(
                    f"{shard.path} holds other tensors than {self._shards[0].path.name}",
                    "use the shards of one checkpoint: download them again",
                )
        for name, stored in names.items():
            self._require_alike(stored, self._axis_of(name, stored))
        return names

    def _require_alike(self, stored: str, axis: int | None) -> None:
        """Raise `BadInput` where a tensor of another shard would not fit beside the first's."""
        first = self._shards[0].tensors[stored]
        for shard in self._shards[1:]:
            other = shard.tensors[stored]
            sizes = zip(first.shape, other.shape, strict=False)
            fits = len(first.shape) == len(other.shape) and first.is_float == other.is_float
            if not fits or any(a != b for i, (a, b) in enumerate(sizes) if i != axis):
                raise BadInput(
                    f"{shard.path}: {stored} is {list(other.shape)}, which does not go with "
                    f"{list(first.shape)} in {self._shards[0].path.name}",
                    "use the shards of one checkpoint: download them again",
                )

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, its shards put together, by its Hugging Face name."""
        infos = {}
        for name, stored in self._stored.items():
            first = self._shards[0].tensors[stored]
            axis = self._axis(name)
            shape = list(first.shape)
            if axis is not None:
                shape[axis] = sum(shard.tensors[stored].shape[axis] for shard in self._shards)
            infos[name] = TensorInfo(tuple(shape), first.dtype, first.is_float)
        return infos

    def _axis(self, name: str) -> int | None:
        return self._axis_of(name, self._stored[name])

    def _axis_of(self, name: str, stored: str) -> int | None:
        """The axis along which shards split a tensor, or None where each has all of it."""
        shape = self._shards[0].tensors[stored].shape
        if len(shape) < 2 or len(self._shards) == 1:
            return None
        if name == "model.embed_tokens.weight":
            return 0 if shape[1] == self._params.get("dim") else 1
        return 1 if name.endswith(SPLIT_BY_COLUMNS) else 0

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> torch.Tensor:
        """A tensor, or a block of one, in its stored dtype, its shards put together."""
        stored, axis = self._stored[name], self._axis(name)
        order = self._row_order(name)
        if order is not None:
            whole = [shard.read(stored, ALL, columns) for shard in self._shards]
            return torch.cat(whole)[order[rows]]
        if axis is None:
            return self._shards[0].read(stored, rows, columns)
        start, stop, _ = (rows, columns)[axis].indices(self.tensors[name].shape[axis])
        parts, at = [], 0
        for shard in self._shards:
            size = shard.tensors[stored].shape[axis]
            inner = slice(max(start - at, 0), min(stop - at, size))
            if inner.start < inner.stop:
                block = (inner, columns) if axis == 0 else (rows, inner)
                parts.append(shard.read(stored, *block))
            at += size
        return torch.cat(parts, axis)

    def _row_order(self, name: str) -> torch.Tensor | None:
        """Where each row of q and k lies: Meta's RoPE pairs are interleaved, ours two halves."""
        heads = {"q_proj": self.spec.heads, "k_proj": self.spec.kv_heads}
        projection = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if projection not in heads:
            return None
        return torch.from_numpy(interleaved_rows(self.tensors[name].shape[0], heads[projection]))

    def _read_spec(self, spec: LlamaSpec | None, context: int | None) -> LlamaSpec:
        params = params_of(self._params, self.path / PARAMS, self.warnings.append)
        if spec is not None:
            require_agreement(params, spec, self.path / PARAMS)
            return spec
        tensors, shards = self._shards[0].tensors, len(self._shards)
        try:
            ffn_dim = tensors["layers.0.feed_forward.w1.weight"].shape[0] * shards
            tied = "output.weight" not in tensors
            rows = tensors["tok_embeddings.weight" if tied else "output.weight"].shape
            # An embedding that is split by columns has all of its rows in every shard.
            split = not tied or rows[1] == params.dim
        except (KeyError, IndexError) as error:
            raise BadInput(
                f"{self.path} is no complete Meta checkpoint ({error})",
                "use the checkpoint's own params.json and consolidated.*.pth, all of them",
            ) from None
        vocab = rows[0] * (shards if split else 1)
        return spec_of(params, ffn_dim, vocab, tied, context, self.warnings.append)

    def text(self) -> Text | None:
        """The folder's tokenizer.model."""
        return read_text(lambda: read_folder(self.path, self.spec.vocab), self.warnings)


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    if name == "rope.freqs":
        return "rotary_emb.inv_freq"
    inner = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name, re.ASCII)
    if inner and inner[2] in INNER:
        return f"model.layers.{inner[1]}.{INNER[inner[2]]}.weight"
    return name


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder in Meta's format, in order."""
    return sorted(path for path in folder.iterdir() if SHARD.fullmatch(path.name))
