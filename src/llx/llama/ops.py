"""The semantic ops that a LLaMA is written in.

Eager, each is plain PyTorch, and together they are the fp32 reference. While `torch.export` looks
on, each is one opaque node of the `llx` library, which is what the dialects lower. One function
body serves both: the library op runs it too, on a copy where it writes in place.

Letters: B batch, T new tokens, K picked positions, P filled positions, S cache capacity, H heads,
Hkv KV heads, D head size, V vocabulary. Activations stay [B, T, heads·D]; splitting heads is an
op's own business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LIBRARY = "llx"


def _semantic(
    schema: str, shape_of: Callable[..., Tensor], clones: int | None = None
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Make the decorated eager function an op of the library as well.

    `shape_of` gives the result's shape and dtype for tracing. `clones` is the argument that the
    eager function writes into: the library op must be functional, so it gets a copy.
    """

    def register(eager: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def functional_form(*args: Any) -> Tensor:
            if clones is None:
                return eager(*args)
            copies = [arg.clone() if i == clones else arg for i, arg in enumerate(args)]
            return eager(*copies)

        name = f"{LIBRARY}::{eager.__name__}"
        torch.library.define(name, schema)
        torch.library.impl(name, "CompositeExplicitAutograd")(functional_form)
        torch.library.register_fake(name)(shape_of)
        op = getattr(getattr(torch.ops, LIBRARY), eager.__name__)

        def call(*args: Any) -> Tensor:
            traced = torch.compiler.is_exporting()
            return op(*args) if traced else eager(*args)

        call.__name__, call.__doc__ = eager.__name__, eager.__doc__
        return call

    return register


def _heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, T, heads·D] → [B, T, heads, D]."""
    return x.view(*x.shape[:-1], -1, head_dim)


@_semantic(
    "(Tensor x, Tensor weight, float eps) -> Tensor",
    lambda x, weight, eps: torch.empty_like(x),
)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467), statistics in float32 or wider.

    x [B, T, dim], weight [dim] → [B, T, dim]; or of each head: x [B, T, heads·D], weight [D].
    """
    heads = x if x.shape[-1] == weight.shape[0] else _heads(x, weight.shape[0])
    wide = heads if x.dtype == torch.float64 else heads.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return ((wide * scale).to(x.dtype) * weight).view(x.shape)


@_semantic(
    "(Tensor x, float factor) -> Tensor",
    lambda x, factor: torch.empty_like(x),
)
def scale(x: Tensor, factor: float) -> Tensor:
    """X, of any shape, times a number of the model's."""
    return x * factor


@_semantic(
    "(Tensor x, Tensor cos, Tensor sin, Tensor position_ids, int? head_dim=None) -> Tensor",
    lambda x, cos, sin, position_ids, head_dim=None: torch.empty_like(x),
)
def rope(
    x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor, head_dim: int | None = None
) -> Tensor:
    """Rotate each head's halves by the angle of its position.

    x [B, T, heads·D], cos and sin [positions, R/2], position_ids [B, T] → [B, T, heads·D]. The
    first R values of a head are turned and the others kept; `head_dim`, D, is given where it is
    not R.
    """
    rotated = 2 * cos.shape[-1]
    c, s = cos[position_ids].unsqueeze(2), sin[position_ids].unsqueeze(2)  # [B, T, 1, R/2]
    heads = _heads(x, head_dim or rotated)
    kept = () if head_dim is None else (heads[..., rotated:],)
    turned = heads[..., :rotated] if kept else heads
    first, second = turned.chunk(2, -1)  # [B, T, heads, R/2]
    parts = (first * c - second * s, second * c + first * s, *kept)
    return torch.cat(parts, -1).flatten(-2)


@_semantic(
    "(Tensor cache, Tensor new, Tensor position_ids) -> Tensor",
    lambda cache, new, position_ids: torch.empty_like(cache),
    clones=0,
)
def kv_update(cache: Tensor, new: Tensor, position_ids: Tensor) -> Tensor:
    """Write the new keys or values at their positions, in place, and return the cache.

    cache [B, Hkv, S, D], new [B, T, Hkv·D], position_ids [B, T] contiguous in each row.
    """
    rows = torch.arange(cache.shape[0], device=cache.device).unsqueeze(1)
    cache[rows, :, position_ids] = _heads(new, cache.shape[3])
    return cache


@_semantic(
    "(Tensor q, Tensor k, Tensor v, Tensor position_ids, int? window=None, float? scale=None) "
    "-> Tensor",
    lambda q, k, v, position_ids, window=None, scale=None: torch.empty_like(q),
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position_ids: Tensor,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal grouped-query attention over the cache (Ainslie et al., 2023, arXiv:2305.13245).

    q [B, T, H·D], k and v [B, Hkv, S, D], position_ids [B, T] → [B, T, H·D]. A query sees the
    slots up to its own position, or the last `window` of them; query head h reads KV head
    h // (H / Hkv). `scale` stands where 1/√D does.

    Slots beyond the last position are masked for every query, so they are left out: here, or, for a
    compiler, which would have to stop and read that position, by who gives it the cache.
    """
    filled = k.shape[2] if torch.compiler.is_compiling() else int(position_ids.max()) + 1
    k, v = k[:, :, :filled], v[:, :, :filled]
    slots = torch.arange(filled, device=q.device)
    own = position_ids[:, None, :, None]
    mask = slots <= own  # [B, 1, T, P]
    if window is not None:
        mask &= slots > own - window
    heads = _heads(q, k.shape[3]).transpose(1, 2)  # [B, H, T, D]
    out = functional.scaled_dot_product_attention(
        heads, k, v, attn_mask=mask, scale=scale, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(-2)


@_semantic(
    "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[1])),
)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """X [B, T, in] times weight [in, out], plus bias [out] → [B, T, out]."""
    out = x @ weight
    return out if bias is None else out + bias


@_semantic(
    "(Tensor x, Tensor logit_index) -> Tensor",
    lambda x, logit_index: x.new_empty((x.shape[0], logit_index.shape[1], x.shape[2])),
)
def pick(x: Tensor, logit_index: Tensor) -> Tensor:
    """The positions that get logits: x [B, T, dim], logit_index [B, K] → [B, K, dim]."""
    return x.gather(1, logit_index.unsqueeze(-1).expand(-1, -1, x.shape[2]))


@_semantic(
    "(Tensor x, Tensor table) -> Tensor",
    lambda x, table: x.new_empty((*x.shape[:-1], table.shape[0]), dtype=torch.float32),
)
def unembed(x: Tensor, table: Tensor) -> Tensor:
    """Logits in float32: x [B, K, dim] times the transposed table [V, dim] → [B, K, V]."""
    return functional.linear(x, table).float()
