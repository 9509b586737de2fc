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
from llx.exporter.sources.base import TensorInfo, Text, interleaved_rows
from llx.exporter.sources.gguf_header import require_readable
from llx.exporter.sources.gguf_keys import (
    PREFIX,
    REMEDY,
    keys_of,
    of_every_layer,
    require_llama,
)
from llx.exporter.sources.gguf_rope import DIVISORS, rope_of
from llx.exporter.vocabulary.read import read_gguf
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
# What the reader raises on a file that is cut off or is no GGUF at all.
DAMAGE = (ValueError, IndexError, KeyError, OverflowError, TypeError, OSError, MemoryError)


class GgufSource:
    """One GGUF file of architecture `llama`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        try:
            require_readable(path)
            self._reader = gguf.GGUFReader(path)
        except DAMAGE as error:
            raise BadInput(
                f"{path} is not a whole GGUF file ({error})", "download it again"
            ) from None
        self._stored = {tensor.name: tensor for tensor in self._reader.tensors}
        self.spec = self._read_spec()
        kinds = Counter(
            tensor.tensor_type.name for tensor in self._stored.values() if len(tensor.shape) > 1
        )
        self.format = f"GGUF {kinds.most_common(1)[0][0]}" if kinds else "GGUF"

    @property
    def files(self) -> list[Path]:
        """The file itself."""
        return [self.path]

    @cached_property
    def _places(self) -> dict[str, Any]:
        # The spec holds what the table of RoPE divisors says: it is no weight.
        stored = {name: tensor for name, tensor in self._stored.items() if name != DIVISORS}
        return {_hugging_face_name(name): tensor for name, tensor in stored.items()}

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the file, by its Hugging Face name."""
        return {
            name: TensorInfo(tuple(map(int, reversed(t.shape))), t.tensor_type.name)
            for name, t in self._places.items()
        }

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor, or a block of one, dequantized to float32; float16 stays what it is.

        The file is mapped anew each time: its pages count as memory for as long as it is mapped.
        """
        stored = self._places[name]
        kind, width = stored.tensor_type, self.tensors[name].shape[-1]
        data = np.memmap(
            self.path, stored.data.dtype, "r", int(stored.data_offset), stored.data.shape
        )
        if data.ndim == 1:
            return torch.from_numpy(_values(data[rows], kind))
        start, stop, _ = columns.indices(width)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        # Quantized rows are counted in bytes, others in values.
        scale = block_bytes / block / data.itemsize
        part = data[self._row_order(name)[rows], int(start * scale) : int(stop * scale)]
        return torch.from_numpy(_values(part, kind))

    def _row_order(self, name: str) -> NDArray[np.int64]:
        """Where each row lies in the file."""
        rows = self.tensors[name].shape[0]
        heads = {"q_proj": self.spec.heads, "k_proj": self.spec.kv_heads}
        projection = name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]
        if projection not in heads:
            return np.arange(rows)
        return interleaved_rows(rows, heads[projection])

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
                vocab=int(self._stored["token_embd.weight"].shape[1]),
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
        return np.asarray(_values(stored.data, stored.tensor_type), np.float32)

    def text(self) -> Text | None:
        """The file's own vocabulary as a tokenizer.json, for the kinds known so far."""
        try:
            fields = {
                name: field.contents()
                for name, field in self._reader.fields.items()
                if name.startswith("tokenizer.")
            }
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} holds no whole tokenizer ({error})", "download it again"
            ) from None
        return read_gguf(self.path, fields)


def _values(data: NDArray[Any], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """Values of stored ones, in memory of their own."""
    if data.dtype in (np.float16, np.float32):
        return np.array(data)
    return np.asarray(gguf.quants.dequantize(np.array(data), kind))


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    if name.startswith("blk.") and name.count(".") == 3:
        _, layer, module, kind = name.split(".")
        if module in INNER:
            return f"model.layers.{layer}.{INNER[module]}.{kind}"
    return name
