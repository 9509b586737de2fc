"""`LlamaSpec`: everything that decides a LLaMA's shape and arithmetic, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

RopeType = Literal["default", "linear", "llama3", "yarn", "dynamic"]

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
            if not 0 < self.attention_factor <= MOST_OTHER:
                raise ValueError("RoPE attention_factor must be positive")


@dataclass(frozen=True, kw_only=True)
class LlamaSpec:
    """A LLaMA's sizes. The glossary's letters: L, dim, H, Hkv, D, F, V."""

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
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, not {self.head_dim}")
        if self.rope.type == "dynamic" and self.context > self.rope.original_context:
            raise ValueError("dynamic RoPE scaling is fixed within its original context only")
        if self.rope.type == "dynamic" and self.head_dim == 2:
            raise ValueError("dynamic RoPE scaling divides by head_dim - 2, which is 0")

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
        if self.attention_bias:
            attention += self.q_dim + 2 * self.kv_dim + self.dim
        mlp = 3 * self.dim * self.ffn_dim
        if self.mlp_bias:
            mlp += 2 * self.ffn_dim + self.dim
        tables = self.vocab * self.dim * (1 if self.tied else 2)
        return self.layers * (attention + mlp + 2 * self.dim) + self.dim + tables


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cosines and sines by (equation 22 of the paper): 0.1·mscale·ln s + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
