"""GGUF files: llama.cpp's one-file format, dequantized on reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.sources.base import TensorInfo, Text, interleaved_rows, read_text
from llx.exporter.sources.gguf_architectures import (
    ARCHITECTURES,
    INNER,
    OUTER,
    architecture_of,
)
from llx.exporter.sources.gguf_keys import REMEDY, keys_of, of_every_layer
from llx.exporter.sources.gguf_parts import DAMAGE, GgufFile, Stored
from llx.exporter.sources.gguf_rope import LONG, rope_of, rotated_of, tables_of
from llx.exporter.vocabulary.gguf import read_gguf
from llx.exporter.vocabulary.templates import GGUF_KEY
from llx.llama.spec import FIXED_WITHIN, LlamaSpec, RopeSpec


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: in one of the file's, of which it may be some of the rows."""

    stored: Stored
    rows: range

    @property
    def shape(self) -> tuple[int, ...]:
        """Its own shape."""
        return (len(self.rows), *self.stored.shape[1:])


class GgufSource:
    """A GGUF file of a LLaMA or its kin, or the parts that one was split into."""

    def __init__(self, path: Path, warnings: list[str] | None = None) -> None:
        self.path = path
        self.warnings = [] if warnings is None else warnings
        self.skipped: dict[str, str] = {}
        self._reader = GgufFile(path)
        self._stored = self._reader.tensors
        self._name = architecture_of(path, self._values_below("general."))
        self._architecture = ARCHITECTURES[self._name]
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
    def _places(self) -> dict[str, Place]:
        # The spec holds what the tables of RoPE say: they are no weights.
        tables = tables_of(self._architecture)
        return {
            part: Place(one, rows)
            for name, one in self._stored.items()
            if name not in tables
            for part, rows in self._parts_of(name, one.shape[0])
        }

    def _parts_of(self, name: str, rows: int) -> Iterator[tuple[str, range]]:
        """The Hugging Face names of a tensor's parts, most often of one, and the rows of each."""
        layer, module, kind = _within_block(name)
        fused = self._architecture.fused.get(module)
        if fused is None:
            yield _hugging_face_name(name), range(rows)
            return
        spec = self.spec
        sizes = {"q": spec.q_dim, "k": spec.kv_dim, "v": spec.kv_dim}
        start = 0
        for part in fused:
            short = part.rpartition(".")[2].removesuffix("_proj")
            stop = start + sizes.get(short, spec.ffn_dim)
            # Whatever is too many belongs to the last, whose shape is then refused.
            yield (
                f"model.layers.{layer}.{part}.{kind}",
                range(rows)[start : None if part is fused[-1] else stop],
            )
            start = stop

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the file, by its Hugging Face name."""
        return {
            name: TensorInfo(place.shape, place.stored.kind.name, place.stored.is_float)
            for name, place in self._places.items()
        }

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A tensor, or a block of one, dequantized to float32; float16 stays what it is."""
        place, order = self._places[name], self._row_order(name)
        part = place.rows[rows]
        where: Any = slice(part.start, part.stop) if order is None else order[rows]
        return torch.from_numpy(place.stored.values(where, columns))

    def _row_order(self, name: str) -> NDArray[np.int64] | None:
        """Where each row of q and k lies, of weights and of biases; None where all lie in order."""
        if not self._architecture.interleaved:
            return None
        rows = self.tensors[name].shape[0]
        heads = {"q_proj": self.spec.heads, "k_proj": self.spec.kv_heads}
        projection = name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]
        return interleaved_rows(rows, heads[projection]) if projection in heads else None

    def _read_spec(self) -> LlamaSpec:
        architecture, prefix = self._architecture, f"{self._name}."
        keys, rope_keys = keys_of(
            self.path,
            self._values_below(prefix),
            prefix,
            architecture.keys,
            self.warnings.append,
        )

        def each(value: int | list[int], key: str) -> int:
            return of_every_layer(value, keys.block_count, self.path, prefix + key)

        heads = each(keys.head_count, "attention.head_count")
        kv_heads = heads
        if keys.head_count_kv is not None:
            kv_heads = each(keys.head_count_kv, "attention.head_count_kv")
        head_dim = keys.key_length or keys.embedding_length // heads
        if (keys.value_length or head_dim) != head_dim:
            raise BadInput(
                f"{self.path} has values of {keys.value_length} a head ({prefix}attention."
                f"value_length) and keys of {head_dim}",
                "export a LLaMA, whose keys and values have one size",
            )
        try:
            rotated = rotated_of(rope_keys, architecture, head_dim)
            names = tables_of(architecture)
            tables = {name: self._table(name) for name in names if name in self._stored}
            if LONG in tables:
                self.skipped[LONG] = "RoPE beyond the original context"
            rope = rope_of(rope_keys, architecture, rotated, keys.context_length, tables)
            context = self._context(rope, keys.context_length)
            return LlamaSpec(
                layers=keys.block_count,
                dim=keys.embedding_length,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                ffn_dim=each(keys.feed_forward_length, "feed_forward_length"),
                vocab=self._stored["token_embd.weight"].shape[0],
                context=context,
                norm_eps=keys.norm_eps,
                rope=rope,
                rotary_dim=None if rotated == head_dim else rotated,
                tied="output.weight" not in self._stored,
                qk_norm=architecture.qk_norm,
                nope=architecture.nope(keys.block_count),
                mlp_bias="blk.0.ffn_gate.bias" in self._stored,
                **self._attention_biases(),
                **keys.parts(context),
            )
        except DAMAGE as error:
            raise BadInput(
                f"{self.path} does not describe a LLaMA ({error})", "use a complete GGUF file"
            ) from None

    def _attention_biases(self) -> dict[str, Any]:
        """Which projections have biases: no key says it, to llama.cpp neither."""
        inner = any(f"blk.0.attn_{module}.bias" in self._stored for module in ("q", "qkv"))
        outer = "blk.0.attn_output.bias" in self._stored
        return {"attention_bias": inner and outer, "qkv_bias": inner and not outer}

    def _context(self, rope: RopeSpec, context: int) -> int:
        """The context within which the RoPE is what the spec says; told where it is shorter."""
        if rope.type not in FIXED_WITHIN or context <= rope.original_context:
            return context
        self.warnings.append(
            f"{self.path.name} has a context of {context}, of which {rope.original_context} are "
            f"exported: beyond, {rope.type}'s frequencies depend on each sequence's length"
        )
        return rope.original_context

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

    def _table(self, name: str) -> NDArray[np.float32]:
        """One of llama.cpp's tables of what each RoPE frequency is divided by."""
        return np.asarray(self._stored[name].values(), np.float32)

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


def _within_block(name: str) -> tuple[str, str, str]:
    """A tensor's layer, module and kind; empty where it is in no block."""
    if name.startswith("blk.") and name.count(".") == 3:
        _, layer, module, kind = name.split(".")
        return layer, module, kind
    return "", "", ""


def _hugging_face_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    layer, module, kind = _within_block(name)
    return f"model.layers.{layer}.{INNER[module]}.{kind}" if module in INNER else name
