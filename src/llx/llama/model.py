"""A LLaMA: the forward pass that is the reference when run, and the graph when traced."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llx.llama import ops
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec

Cache = list[Tensor]
"""Keys and values of every layer, [B, Hkv, S, D] each: key 0, value 0, key 1, …"""


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """A projection whose weight is [in, out], as a MatMul reads it."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = _weight(in_dim, out_dim)
        self.bias = _weight(out_dim) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] → [B, T, out]."""
        return ops.linear(x, self.weight, self.bias)


class Norm(nn.Module):
    """RMSNorm: a scale, no offset; of the hidden state, or of each head."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = _weight(dim)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] → [B, T, dim], or as many of them as there are heads."""
        return ops.rms_norm(x, self.weight, self.eps)


class Table(nn.Module):
    """A vocabulary table [V, dim]: looked up by token, or multiplied with to get logits."""

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        self.weight = _weight(vocab, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] → their rows [B, T, dim]."""
        return functional.embedding(tokens, self.weight)

    def logits(self, x: Tensor) -> Tensor:
        """[B, K, dim] → [B, K, V]."""
        return ops.unembed(x, self.weight)


class Rope(nn.Module):
    """The cosines and sines of the positions from 0, [positions, R/2] each; R is D, or less."""

    def __init__(self, spec: LlamaSpec, positions: int) -> None:
        super().__init__()
        shape = (positions, spec.rotated // 2)
        self.register_buffer("cos", torch.empty(shape))
        self.register_buffer("sin", torch.empty(shape))

    cos: Tensor
    sin: Tensor

    def fill(self, spec: LlamaSpec, dtype: torch.dtype) -> None:
        """Compute the tables: they follow from the spec and are in no checkpoint."""
        tables = rope_tables(spec.rope, spec.rotated, np.arange(len(self.cos)))
        self.cos, self.sin = (torch.from_numpy(table).to(dtype) for table in tables)


class Block(nn.Module):
    """One layer: attention over the cache, then SwiGLU (Shazeer, 2020, arXiv:2002.05202).

    Of the parts that a LLaMA does not have, what is absent leaves no trace in the graph.
    """

    def __init__(self, spec: LlamaSpec, layer: int = 0) -> None:
        super().__init__()
        self.kind = spec.kind_of(layer)
        self.scale, self.residual_scale = spec.attention_scale, spec.residual_scale
        self.head_dim = None if spec.rotary_dim is None else spec.head_dim
        self.split = [spec.q_dim, spec.kv_dim, spec.kv_dim]
        self.halves = [spec.ffn_dim, spec.ffn_dim]
        self.attn_norm = Norm(spec.dim, spec.norm_eps)
        self.qkv = Linear(spec.dim, sum(self.split), spec.has_qkv_bias)
        self.q_norm = Norm(spec.head_dim, spec.norm_eps) if spec.qk_norm else None
        self.k_norm = Norm(spec.head_dim, spec.norm_eps) if spec.qk_norm else None
        self.o = Linear(spec.q_dim, spec.dim, spec.attention_bias)
        self.mlp_norm = Norm(spec.dim, spec.norm_eps)
        self.gate_up = Linear(spec.dim, 2 * spec.ffn_dim, spec.mlp_bias)
        self.down = Linear(spec.ffn_dim, spec.dim, spec.mlp_bias)

    def forward(
        self, x: Tensor, position_ids: Tensor, rope: Rope, k_cache: Tensor, v_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Activations [B, T, dim], caches [B, Hkv, S, D] → activations and both caches."""
        q, k, v = self.qkv(self.attn_norm(x)).split(self.split, -1)
        if self.q_norm and self.k_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.kind.rope:
            q = ops.rope(q, rope.cos, rope.sin, position_ids, self.head_dim)
            k = ops.rope(k, rope.cos, rope.sin, position_ids, self.head_dim)
        k_cache = ops.kv_update(k_cache, k, position_ids)
        v_cache = ops.kv_update(v_cache, v, position_ids)
        seen = ops.attention(q, k_cache, v_cache, position_ids, self.kind.window, self.scale)
        x = x + scaled(self.o(seen), self.residual_scale)
        gate, up = self.gate_up(self.mlp_norm(x)).split(self.halves, -1)
        x = x + scaled(self.down(functional.silu(gate) * up), self.residual_scale)
        return x, k_cache, v_cache


class Llama(nn.Module):
    """A LLaMA of any size. Weights are uninitialised: load them, or trace it without any.

    `positions`: how many its RoPE tables hold; None for those of the whole context.
    """

    def __init__(self, spec: LlamaSpec, positions: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.embed = Table(spec.vocab, spec.dim)
        self.layers = nn.ModuleList(Block(spec, layer) for layer in range(spec.layers))
        self.norm = Norm(spec.dim, spec.norm_eps)
        self.unembed = None if spec.tied else Table(spec.vocab, spec.dim)
        self.rope = Rope(spec, positions or spec.context)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, logit_index: Tensor, past: Cache
    ) -> tuple[Tensor, Cache]:
        """One step: input_ids and position_ids [B, T], logit_index [B, K] → logits [B, K, V].

        Eager, the cache is written in place and returned; traced, present is a new value.
        """
        x = scaled(self.embed(input_ids), self.spec.embed_scale)  # [B, T, dim]
        present: Cache = []
        for layer, block in enumerate(self.layers):
            k_cache, v_cache = past[2 * layer : 2 * layer + 2]
            x, k_cache, v_cache = block(x, position_ids, self.rope, k_cache, v_cache)
            present += [k_cache, v_cache]
        x = self.norm(ops.pick(x, logit_index))
        logits = (self.unembed or self.embed).logits(x)
        return scaled(logits, self.spec.logit_scale), present


def scaled(x: Tensor, factor: float) -> Tensor:
    """X times a model's factor; itself where the model has none."""
    return x if factor == 1 else ops.scale(x, factor)


def empty_cache(spec: LlamaSpec, rows: int, capacity: int, dtype: torch.dtype) -> Cache:
    """A cache for `rows` rows of `capacity` positions, all zero."""
    shape = (rows, spec.kv_heads, capacity, spec.head_dim)
    return [torch.zeros(shape, dtype=dtype) for _ in range(2 * spec.layers)]
