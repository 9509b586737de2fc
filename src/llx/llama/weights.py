"""Which checkpoint tensors make up each weight of the model, and in what shape.

The checkpoint side speaks Hugging Face's names, whatever the format on disk. The model side packs
what is read together: q, k and v are one projection, gate and up another. Projections are stored
[in, out], the way a MatMul reads them, so the traced graph, the artifact's file and the PyTorch
module share their bytes; vocabulary tables stay [V, dim], so a tied one exists once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llx.llama.spec import LlamaSpec
from llx.precision import Linear, Precision

Kind = Literal["vector", "projection", "table"]


@dataclass(frozen=True)
class Part:
    """One checkpoint tensor: its Hugging Face name and the shape that it must have."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One weight of the model, and the checkpoint tensors that it is made of, in order.

    `vector`: parts concatenated. `projection`: parts [out, in], concatenated along out and stored
    transposed. `table`: the one part, as it is.
    """

    name: str
    kind: Kind
    parts: tuple[Part, ...]

    @property
    def module(self) -> str:
        """The module that it belongs to, such as `layers.0.qkv`."""
        return self.name.rpartition(".")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the model's weight."""
        rows = sum(part.shape[0] for part in self.parts)
        if self.kind == "projection":
            return (self.parts[0].shape[1], rows)
        return (rows, *self.parts[0].shape[1:])

    @property
    def outputs(self) -> int:
        """Output channels of a projection [in, out], or of a table [V, dim] as logits have them."""
        return self.shape[0] if self.kind == "table" else self.shape[1]


def linear_of(weight: Weight, precision: Precision, dense: frozenset[str]) -> Linear:
    """What a weight is stored as: projections in the precision's bits, but for `dense` modules.

    A table in int8 is weight-only, whatever the projections are: nothing rounds what it is given.
    """
    if weight.kind == "table":
        return "int8-wo" if precision.vocab == "int8" else "dense"
    quantized = weight.kind == "projection" and weight.module not in dense
    return precision.linear if quantized else "dense"


def weights_of(spec: LlamaSpec) -> Iterator[Weight]:
    """Every weight of the model, in the order of the weights file."""
    table = (spec.vocab, spec.dim)
    yield Weight("embed.weight", "table", (Part("model.embed_tokens.weight", table),))
    for i in range(spec.layers):
        yield from _block(spec, i)
    yield Weight("norm.weight", "vector", (Part("model.norm.weight", (spec.dim,)),))
    if not spec.tied:
        yield Weight("unembed.weight", "table", (Part("lm_head.weight", table),))


def _block(spec: LlamaSpec, i: int) -> Iterator[Weight]:
    source, target = f"model.layers.{i}.", f"layers.{i}."

    def vector(name: str, part: str, size: int = spec.dim) -> Weight:
        return Weight(target + name, "vector", (Part(source + part, (size,)),))

    def linear(name: str, bias: bool, in_dim: int, **outs: int) -> Iterator[Weight]:
        group = "self_attn" if name in ("qkv", "o") else "mlp"
        prefix = {part: f"{source}{group}.{part}_proj" for part in outs}
        parts = tuple(Part(f"{prefix[p]}.weight", (out, in_dim)) for p, out in outs.items())
        yield Weight(f"{target}{name}.weight", "projection", parts)
        if bias:
            biases = tuple(Part(f"{prefix[p]}.bias", (out,)) for p, out in outs.items())
            yield Weight(f"{target}{name}.bias", "vector", biases)

    yield vector("attn_norm.weight", "input_layernorm.weight")
    yield from linear(
        "qkv", spec.has_qkv_bias, spec.dim, q=spec.q_dim, k=spec.kv_dim, v=spec.kv_dim
    )
    if spec.qk_norm:
        yield vector("q_norm.weight", "self_attn.q_norm.weight", spec.head_dim)
        yield vector("k_norm.weight", "self_attn.k_norm.weight", spec.head_dim)
    yield from linear("o", spec.attention_bias, spec.q_dim, o=spec.dim)
    yield vector("mlp_norm.weight", "post_attention_layernorm.weight")
    yield from linear("gate_up", spec.mlp_bias, spec.dim, gate=spec.ffn_dim, up=spec.ffn_dim)
    yield from linear("down", spec.mlp_bias, spec.ffn_dim, down=spec.dim)
