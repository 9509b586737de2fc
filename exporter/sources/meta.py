"""Meta's original checkpoints: params.json beside consolidated.NN.pth, in one shard or many.

The layout is that of the published `llama` reference code: shards come from model parallelism,
so q, k, v, gate, up and the output are split by rows, o and down by columns, the embedding by
columns (Llama 1 and 2) or rows (Llama 3), and norms are in every shard alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, interleaved_rows, read_json
from llx.exporter.sources.files import ALL, TorchFile
from llx.exporter.sources.meta_params import params_of, require_agreement, spec_of
from llx.exporter.vocabulary.read import read_folder
from llx.llama.spec import LlamaSpec

SHARDS = "consolidated.*.pth"
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

    def __init__(self, path: Path, spec: LlamaSpec | None, context: int | None = None) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._params: dict[str, Any] = read_json(path / PARAMS)
        self.files = sorted(path.glob(SHARDS))
        self._shards = [TorchFile(file) for file in self.files]
        self.spec = self._read_spec(spec, context)

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
        return names

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
            infos[name] = TensorInfo(tuple(shape), first.dtype)
        return infos

    def _axis(self, name: str) -> int | None:
        """The axis along which shards split a tensor, or None where each has all of it."""
        shape = self._shards[0].tensors[self._stored[name]].shape
        if len(shape) == 1 or len(self._shards) == 1:
            return None
        if name == "model.embed_tokens.weight":
            return 0 if shape[1] == self._params["dim"] else 1
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
        return read_folder(self.path, self.spec.vocab)


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    if name == "rope.freqs":
        return "rotary_emb.inv_freq"
    if name.startswith("layers.") and name.endswith(".weight"):
        _, layer, module = name.removesuffix(".weight").split(".", 2)
        if module in INNER:
            return f"model.layers.{layer}.{INNER[module]}.weight"
    return name
