"""GGUF files: llama.cpp's one-file format, dequantized on reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, interleaved_rows, read_text
from llx.exporter.sources.gguf_keys import (
    PREFIX,
    REMEDY,
    keys_of,
    of_every_layer,
    require_llama,
)
from llx.exporter.sources.gguf_parts import DAMAGE, GgufFile, Stored
from llx.exporter.sources.gguf_rope import DIVISORS, rope_of
from llx.exporter.vocabulary.gguf import read_gguf
from llx.exporter.vocabulary.templates import GGUF_KEY
from llx.llama.spec import LlamaSpec

# GGUF's names by Hugging Face's, outside of and within a block.
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufSource:
    """A GGUF file of architecture `llama`, or the parts that one was split into."""

    def __init__(self, path: Path, warnings: list[str] | None = None) -> None:
        self.path = path
        self.warnings = [] if warnings is None else warnings
        self.skipped: dict[str, str] = {}
        self._reader = GgufFile(path)
        self._stored = self._reader.tensors
        self.spec = self._read_spec()
        if self.spec.tied and self._reader.part_by_name:
            raise BadInput(
                f"{self._reader.part_by_name} and holds no output.weight: whether the model is "
                "tied, or another part holds it, cannot be told",
                "rename the file if it is whole, else merge its parts into one",
            )
        kinds = Counter(one.kind.name for one in self._stored.values() if len(one.shape) > 1)
        self.format = f"GGUF {kinds.most_common(1)[0][0]}" if kinds else "GGUF"
        self.files = self._reader.paths

    @cached_property
    def _places(self) -> dict[str, Stored]:
        # The spec holds what the table of RoPE divisors says: it is no weight.
        stored = {name: tensor for name, tensor in self._stored.items() if name != DIVISORS}
        return {_hugging_face_name(name): tensor for name, tensor in stored.items()}

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the file, by its Hugging Face name."""
        return {
            name: TensorInfo(stored.shape, stored.kind.name, stored.is_float)
            for name, stored in self._places.items()
        }

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor, or a block of one, dequantized to float32; float16 stays what it is."""
        order = self._row_order(name)
        found = self._places[name].values(rows if order is None else order[rows], columns)
        return torch.from_numpy(found)

    def _row_order(self, name: str) -> NDArray[np.int64] | None:
        """Where each row of q and k lies, of weights and of biases; None for all others."""
        rows = self.tensors[name].shape[0]
        heads = {"q_proj": self.spec.heads, "k_proj": self.spec.kv_heads}
        projection = name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]
        return interleaved_rows(rows, heads[projection]) if projection in heads else None

    def _read_spec(self) -> LlamaSpec:
        values = self._values_below("general.", PREFIX)
        require_llama(self.path, values)
        keys, rope = keys_of(self.path, values, self.warnings.append)

        def each(value: int | list[int], key: str) -> int:
            return of_every_layer(value, keys.block_count, self.path, key)

        heads = each(keys.head_count, "attention.head_count")
        kv_heads = heads
        if keys.head_count_kv is not None:
            kv_heads = each(keys.head_count_kv, "attention.head_count_kv")
        head_dim = keys.key_length or keys.embedding_length // heads
        if (keys.value_length or head_dim) != head_dim:
            raise BadInput(
                f"{self.path} has values of {keys.value_length} a head (llama.attention."
                f"value_length) and keys of {head_dim}",
                "export a LLaMA, whose keys and values have one size",
            )
        try:
            return LlamaSpec(
                layers=keys.block_count,
                dim=keys.embedding_length,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                ffn_dim=each(keys.feed_forward_length, "feed_forward_length"),
                vocab=self._stored["token_embd.weight"].shape[0],
                context=keys.context_length,
                norm_eps=keys.norm_eps,
                rope=rope_of(rope, head_dim, keys.context_length, self._divisors()),
                tied="output.weight" not in self._stored,
                attention_bias="blk.0.attn_q.bias" in self._stored,
                mlp_bias="blk.0.ffn_gate.bias" in self._stored,
            )
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} does not describe a LLaMA ({error})", "use a complete GGUF file"
            ) from None

    def _values_below(self, *prefixes: str) -> dict[str, Any]:
        """Values of the file's keys that begin so."""
        try:
            return {
                name: field.contents()
                for name, field in self._reader.fields.items()
                if name.startswith(prefixes)
            }
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} holds a key that cannot be read ({error})", REMEDY
            ) from None

    def _divisors(self) -> NDArray[np.float32] | None:
        """llama.cpp's table of what each RoPE frequency is divided by, where there is one."""
        stored = self._stored.get(DIVISORS)
        if stored is None:
            return None
        return np.asarray(stored.values(), np.float32)

    def text(self) -> Text | None:
        """The file's own vocabulary as a tokenizer.json, or else the one that lies beside it."""
        return read_text(self._read_text, self.warnings)

    def _read_text(self) -> Text:
        try:
            fields = {
                name: _contents(name, field)
                for name, field in self._reader.fields.items()
                if name.startswith("tokenizer.")
            }
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} holds no whole tokenizer ({error})", "download it again"
            ) from None
        return read_gguf(self.path, fields, self.spec.vocab)


def _contents(name: str, field: gguf.ReaderField) -> Any:
    """A field's value; a chat template that is not UTF-8 as its bytes: the tokenizer needs none."""
    try:
        return field.contents()
    except UnicodeDecodeError:
        if not name.startswith(GGUF_KEY) or not field.parts:
            raise
        return bytes(field.parts[-1])


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    if name.startswith("blk.") and name.count(".") == 3:
        _, layer, module, kind = name.split(".")
        if module in INNER:
            return f"model.layers.{layer}.{INNER[module]}.{kind}"
    return name
