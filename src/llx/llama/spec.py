"""`LlamaSpec`: everything that decides a LLaMA's shape and arithmetic, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llx.errors import BadInput

RopeType = Literal["default", "linear", "llama3"]


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) and its scaling.

    `linear` divides every angle by `factor` (Code Llama's relatives, position interpolation);
    `llama3` divides the long wavelengths only, by the rule of Llama 3.1.
    """

    theta: float = 10000.0
    type: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        if self.theta <= 0 or self.factor <= 0:
            raise ValueError("RoPE theta and factor must be positive")
        if self.type == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("RoPE low_freq_factor must be below high_freq_factor")


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
        sizes = ("layers", "dim", "heads", "kv_heads", "head_dim", "ffn_dim", "vocab", "context")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} KV heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, not {self.head_dim}")

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


def spec_from_config(config: Mapping[str, Any]) -> LlamaSpec:
    """Read a Hugging Face `config.json`, in the spelling of any transformers release.

    Older files have `rope_theta` and `rope_scaling`, newer ones `rope_parameters`; KV heads and
    head size may be left out. Raises `BadInput` where the file is not a LLaMA's or lacks a size.
    """
    _require_llama(config)
    try:
        heads = int(config["num_attention_heads"])
        return LlamaSpec(
            layers=int(config["num_hidden_layers"]),
            dim=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            ffn_dim=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            context=int(config.get("max_position_embeddings") or 2048),
            norm_eps=float(config.get("rms_norm_eps") or 1e-6),
            rope=_rope_from_config(config),
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
    except KeyError as missing:
        raise BadInput(
            f"config.json does not say {missing}", "use the checkpoint's own, complete config.json"
        ) from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise BadInput(
            f"config.json does not describe a LLaMA ({error})",
            "use the checkpoint's own config.json",
        ) from None


def _require_llama(config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures") or []
    model_type = config.get("model_type")
    if model_type != "llama" or (architectures and "LlamaForCausalLM" not in architectures):
        found = ", ".join(map(str, architectures)) or model_type or "none named"
        raise BadInput(
            f"the checkpoint's architecture is {found}, not LlamaForCausalLM",
            "llx exports LLaMA models; `llx models` lists them",
        )
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise BadInput(
            f"the checkpoint's activation is {activation!r}, not SiLU",
            "llx exports LLaMA models, whose feed-forward is SwiGLU",
        )


def _rope_from_config(config: Mapping[str, Any]) -> RopeSpec:
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0)
    if kind == "default":
        return RopeSpec(theta=theta)
    if kind == "linear":
        return RopeSpec(theta=theta, type="linear", factor=float(scaling["factor"]))
    if kind == "llama3":
        return RopeSpec(
            theta=theta,
            type="llama3",
            factor=float(scaling["factor"]),
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
            original_context=int(scaling["original_max_position_embeddings"]),
        )
    raise BadInput(
        f"RoPE scaling {kind!r} is not supported yet", "default, linear and llama3 scaling are"
    )
