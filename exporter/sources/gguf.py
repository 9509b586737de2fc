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
# What the reader raises on a file that is cut off or is no GGUF at all.
DAMAGE = (ValueError, IndexError, KeyError, OverflowError, TypeError, OSError, MemoryError)


class GgufSource:
    """One GGUF file of architecture `llama`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        try:
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

    def _value(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            if default is None:
                raise BadInput(f"{self.path} does not say {key}", "use a complete GGUF file")
            return default
        return field.contents()

    def _read_spec(self) -> LlamaSpec:
        architecture = self._value("general.architecture")
        if architecture != "llama":
            raise BadInput(
                f"the checkpoint's architecture is {architecture}, not llama",
                "llx exports LLaMA models; `llx models` lists them",
            )
        heads, dim = int(self._value("llama.attention.head_count")), self._int("embedding_length")
        try:
            context = self._int("context_length")
            head_dim = int(self._value("llama.attention.key_length", dim // heads))
            return LlamaSpec(
                layers=self._int("block_count"),
                dim=dim,
                heads=heads,
                kv_heads=int(self._value("llama.attention.head_count_kv", heads)),
                head_dim=head_dim,
                ffn_dim=self._int("feed_forward_length"),
                vocab=int(self._stored["token_embd.weight"].shape[1]),
                context=context,
                norm_eps=_shortest(self._value("llama.attention.layer_norm_rms_epsilon")),
                rope=rope_of(self._rope_value, head_dim, context, self._divisors()),
                tied="output.weight" not in self._stored,
                attention_bias="blk.0.attn_q.bias" in self._stored,
                mlp_bias="blk.0.ffn_gate.bias" in self._stored,
            )
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} does not describe a LLaMA ({error})", "use a complete GGUF file"
            ) from None

    def _rope_value(self, key: str, default: Any) -> Any:
        value = self._value(f"llama.rope.{key}", default)
        return _shortest(value) if isinstance(value, float) else value

    def _divisors(self) -> NDArray[np.float32] | None:
        """llama.cpp's table of what each RoPE frequency is divided by, where there is one."""
        stored = self._stored.get(DIVISORS)
        if stored is None:
            return None
        return np.asarray(_values(stored.data, stored.tensor_type), np.float32)

    def _int(self, key: str) -> int:
        return int(self._value(f"llama.{key}"))

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


def _values(data: NDArray[Any], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """Values of stored ones, in memory of their own."""
    if data.dtype in (np.float16, np.float32):
        return np.array(data)
    return np.asarray(gguf.quants.dequantize(np.array(data), kind))


def _shortest(value: Any) -> float:
    """A float32 from the file as the decimal that was meant: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    if name.startswith("blk.") and name.count(".") == 3:
        _, layer, module, kind = name.split(".")
        if module in INNER:
            return f"model.layers.{layer}.{INNER[module]}.{kind}"
    return name
