"""`LlamaSpec`: everything that decides a LLaMA's shape and arithmetic, and nothing else.

Its kin are LLaMAs with optional parts: each is a field here, absent by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

RopeType = Literal["default", "linear", "llama3", "yarn", "dynamic", "longrope"]
# Types whose frequencies depend on a sequence's length beyond the original context.
FIXED_WITHIN = ("dynamic", "longrope")

# Bounds of what is believed of a file: far beyond every LLaMA, so that a damaged number ends in an
# error and not in a loop over a billion layers. RoPE's keep transformers' float32 angles exact
# enough to be compared with.
MOST_LAYERS = 4096
MOST_WIDTH = 1 << 20  # of dim, heads, kv_heads, head_dim
MOST_ROWS = 1 << 24  # of ffn_dim, vocab
MOST_CONTEXT = (1 << 31) - 1
MOST_EPS = 1e6
MOST_THETA = 1e15
LEAST_FACTOR, MOST_FACTOR = 0.1, 1e6
MOST_OTHER = 1e6  # betas, Llama 3.1's two factors, YaRN's multipliers
MOST = {
    "layers": MOST_LAYERS,
    **dict.fromkeys(("dim", "heads", "kv_heads", "head_dim"), MOST_WIDTH),
    **dict.fromkeys(("ffn_dim", "vocab"), MOST_ROWS),
    "context": MOST_CONTEXT,
}
# The fields of `LlamaSpec` that LLaMA itself leaves as they are by default.
PARTS = (
    *("attention_bias", "mlp_bias", "qkv_bias", "qk_norm", "window", "nope", "rotary_dim"),
    *("embed_scale", "attention_scale", "residual_scale", "logit_scale"),
)


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) and its scaling.

    `linear` divides every angle by `factor` (position interpolation, Chen et al., 2023,
    arXiv:2306.15595). `llama3` divides the long wavelengths only, by the rule of Llama 3.1. `yarn`
    (Peng et al., 2023, arXiv:2309.00071) divides what turns less than `beta_slow` times within the
    original context, keeps what turns more than `beta_fast` times, blends between, and multiplies
    cosines and sines by `attention_factor`; `truncate` rounds the blend's ends to whole pairs.
    `dynamic` is plain RoPE within the original context, and nothing else is kept of it here:
    beyond, its frequencies depend on each sequence's length, which no fixed table can follow.
    `longrope` (Ding et al., 2024, arXiv:2402.13753) divides each pair by a factor of its own, and
    multiplies by `attention_factor`: those of within the original context, `short_factors` [D/2],
    are kept, for the same reason.
    """

    theta: float = 10000.0
    type: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Written so that NaN, of which every comparison is false, is refused.
        if not 1 <= self.theta <= MOST_THETA:
            raise ValueError(f"RoPE theta must be within 1…{MOST_THETA:g}, not {self.theta}")
        if not LEAST_FACTOR <= self.factor <= MOST_FACTOR:
            raise ValueError(
                f"RoPE factor must be within {LEAST_FACTOR:g}…{MOST_FACTOR:g}, not {self.factor}"
            )
        if not 1 <= self.original_context <= MOST_CONTEXT:
            raise ValueError("RoPE's original context must be at least 1")
        low, high = self.low_freq_factor, self.high_freq_factor
        if self.type == "llama3" and not 0 < low < high <= MOST_OTHER:
            raise ValueError("RoPE low_freq_factor must be positive and below high_freq_factor")
        if self.type == "yarn":
            if self.theta <= 1:
                raise ValueError("RoPE theta must be above 1 for yarn scaling")
            if not 0 < self.beta_slow <= self.beta_fast <= MOST_OTHER:
                raise ValueError("RoPE beta_slow must be positive and at most beta_fast")
        if self.type in ("yarn", "longrope") and not 0 < self.attention_factor <= MOST_OTHER:
            raise ValueError("RoPE attention_factor must be positive")
        if not all(LEAST_FACTOR <= factor <= MOST_FACTOR for factor in self.short_factors):
            raise ValueError(
                f"RoPE's short factors must be within {LEAST_FACTOR:g}…{MOST_FACTOR:g}"
            )


@dataclass(frozen=True)
class LayerKind:
    """What may differ from layer to layer: whether it turns by positions, how far back it sees."""

    rope: bool = True
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class LlamaSpec:
    """A LLaMA's sizes. The glossary's letters: L, dim, H, Hkv, D, F, V.

    `attention_bias`: on q, k, v and o; `qkv_bias`: on q, k and v alone (Qwen2). `qk_norm`: RMSNorm
    of each head's queries and keys, before RoPE (Qwen3). `windowed`: layers in which a token sees
    the last `window` positions alone, itself among them (Beltagy et al., 2020, arXiv:2004.05150).
    `nope`: layers without RoPE (Kazemnejad et al., 2023, arXiv:2305.19466). `rotary_dim`: how many
    values of each head RoPE turns, its first; None for all. The scales multiply what is looked up,
    each branch before it joins the residual stream, and the logits; `attention_scale` stands where
    1/√D does.
    """

    layers: int  # L
    dim: int
    heads: int  # H
    kv_heads: int  # Hkv
    head_dim: int  # D
    ffn_dim: int  # F
    vocab: int  # V
    context: int
    norm_eps: float = 1e-5
    rope: RopeSpec = field(default_factory=RopeSpec)
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    windowed: tuple[int, ...] = ()
    nope: tuple[int, ...] = ()
    rotary_dim: int | None = None
    embed_scale: float = 1.0
    attention_scale: float | None = None
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
            if size > most:
                raise ValueError(f"{name} must be at most {most}, not {size}")
        if not 0 <= self.norm_eps <= MOST_EPS:
            raise ValueError(f"norm_eps must be within 0…{MOST_EPS:g}, not {self.norm_eps}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} KV heads evenly")
        if self.rotary_dim is None and self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, not {self.head_dim}")
        self._require_parts()
        rope = self.rope
        if rope.type in FIXED_WITHIN and self.context > rope.original_context:
            raise ValueError(f"{rope.type} RoPE scaling is fixed within its original context only")
        if rope.type == "dynamic" and self.rotated == 2:
            raise ValueError("dynamic RoPE scaling divides by head_dim - 2, which is 0")
        if rope.type == "longrope" and len(rope.short_factors) != self.rotated // 2:
            raise ValueError(
                f"longrope needs a factor for each of the {self.rotated // 2} pairs of a head, "
                f"not {len(rope.short_factors)}"
            )

    def _require_parts(self) -> None:
        """Raise `ValueError` where an optional part contradicts itself or the sizes."""
        if self.attention_bias and self.qkv_bias:
            raise ValueError("biases are on q, k and v alone, or on o too: not both")
        part = self.rotary_dim
        if part is not None and (part % 2 or not 2 <= part < self.head_dim):
            raise ValueError(f"rotary_dim must be even, and below head_dim, not {part}")
        if (self.window is None) != (not self.windowed):
            raise ValueError("a window and the layers that have it are given together")
        if self.window is not None and not 1 <= self.window <= MOST_CONTEXT:
            raise ValueError(f"window must be at least 1, not {self.window}")
        for name in ("windowed", "nope"):
            layers = getattr(self, name)
            if list(layers) != sorted(set(layers) & set(range(self.layers))):
                raise ValueError(f"{name} must name layers of the model, in order")
        if len(self.nope) == self.layers:
            raise ValueError("a model without RoPE in any layer knows no positions")
        for name in ("embed_scale", "attention_scale", "residual_scale", "logit_scale"):
            scale = getattr(self, name)
            if scale is not None and not 0 < abs(scale) <= MOST_OTHER:
                raise ValueError(f"{name} must be other than 0, and not {scale}")

    @property
    def parts(self) -> frozenset[str]:
        """The optional parts that it has, by their fields: those of `PARTS`."""
        optional = (one for one in fields(self) if one.name in PARTS)
        return frozenset(one.name for one in optional if getattr(self, one.name) != one.default)

    def kind_of(self, layer: int) -> LayerKind:
        """What a layer has that others may not have."""
        window = self.window if layer in self.windowed else None
        return LayerKind(rope=layer not in self.nope, window=window)

    @property
    def kinds(self) -> list[LayerKind]:
        """The kinds of its layers, each once, in the order of the first of each."""
        return list(dict.fromkeys(map(self.kind_of, range(self.layers))))

    def one_of_each(self) -> LlamaSpec:
        """The model with one layer of each kind, in the order of `kinds`."""
        kinds = self.kinds
        windowed = tuple(i for i, kind in enumerate(kinds) if kind.window)
        nope = tuple(i for i, kind in enumerate(kinds) if not kind.rope)
        window = self.window if windowed else None
        return replace(self, layers=len(kinds), window=window, windowed=windowed, nope=nope)

    @property
    def rotated(self) -> int:
        """How many values of each head RoPE turns."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def score_scale(self) -> float:
        """What attention's scores are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def has_qkv_bias(self) -> bool:
        """Whether q, k and v have biases."""
        return self.attention_bias or self.qkv_bias

    @property
    def q_dim(self) -> int:
        """Width of the queries, H·D."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys, or of the values, Hkv·D."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights, a tied table counted once. RoPE tables are not weights."""
        attention = self.dim * (self.q_dim + 2 * self.kv_dim) + self.q_dim * self.dim
        if self.has_qkv_bias:
            attention += self.q_dim + 2 * self.kv_dim
        if self.attention_bias:
            attention += self.dim
        if self.qk_norm:
            attention += 2 * self.head_dim
        mlp = 3 * self.dim * self.ffn_dim
        if self.mlp_bias:
            mlp += 2 * self.ffn_dim + self.dim
        tables = self.vocab * self.dim * (1 if self.tied else 2)
        return self.layers * (attention + mlp + 2 * self.dim) + self.dim + tables


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cosines and sines by (equation 22 of the paper): 0.1·mscale·ln s + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
