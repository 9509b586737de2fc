"""`LlamaSpec`: everything that decides a LLaMA's shape and arithmetic, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from llx.errors import BadInput

RopeType = Literal["default", "linear", "llama3", "yarn", "dynamic"]


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
        if self.theta <= 0 or self.factor <= 0:
            raise ValueError("RoPE theta and factor must be positive")
        if self.original_context < 1:
            raise ValueError("RoPE's original context must be at least 1")
        if self.type == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("RoPE low_freq_factor must be below high_freq_factor")
        if self.type == "yarn":
            if self.theta <= 1:
                raise ValueError("RoPE theta must be above 1 for yarn scaling")
            if not 0 < self.beta_slow <= self.beta_fast:
                raise ValueError("RoPE beta_slow must be positive and at most beta_fast")
            if self.attention_factor <= 0:
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
        sizes = ("layers", "dim", "heads", "kv_heads", "head_dim", "ffn_dim", "vocab", "context")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} KV heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, not {self.head_dim}")
        if self.rope.type == "dynamic" and self.context > self.rope.original_context:
            raise ValueError("dynamic RoPE scaling is fixed within its original context only")

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


# Every key that transformers reads in `rope_scaling` or `rope_parameters`, and `finetuned`, which
# the YaRN authors' checkpoints carry and nothing reads. All that stands there is arithmetic, so a
# key of any other name is a rule that is not known here.
ROPE_KEYS = frozenset(
    {
        *("type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "partial_rotary_factor", "finetuned"),
        *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    }
)


def spec_from_config(config: Mapping[str, Any]) -> LlamaSpec:
    """Read a Hugging Face `config.json`, in the spelling of any transformers release.

    Older files have `rope_theta` and `rope_scaling`, newer ones `rope_parameters`; KV heads and
    head size may be left out. Raises `BadInput` where the file is not a LLaMA's, lacks a size, or
    asks for arithmetic that this model does not have. The other fields of transformers' LlamaConfig
    change no result: `attention_dropout` and `initializer_range` are training's, `use_cache` and
    the token ids are generation's, and `pretraining_tp` was only the order of a sum.
    """
    _require_llama(config)
    try:
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        context = int(config.get("max_position_embeddings") or 2048)
        return LlamaSpec(
            layers=int(config["num_hidden_layers"]),
            dim=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            ffn_dim=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            context=context,
            norm_eps=float(config.get("rms_norm_eps") or 1e-6),
            rope=_rope_from_config(config, context),
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
    except KeyError as missing:
        raise BadInput(
            f"config.json does not say {missing}", "use the checkpoint's own, complete config.json"
        ) from None
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
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
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise BadInput(
            f"the checkpoint is quantized ({method or 'quantization_config'})",
            "export from the checkpoint that it was made of, and let llx round the weights",
        )


def _rope_from_config(config: Mapping[str, Any], context: int) -> RopeSpec:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    _require_known_rope(config, scaling, kind)
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0)
    # Where it stands in both places, transformers too takes the one beside the block.
    original = int(
        config.get("original_max_position_embeddings")
        or scaling.get("original_max_position_embeddings")
        or context
    )
    if kind == "linear":
        return RopeSpec(theta=theta, type="linear", factor=float(scaling["factor"]))
    if kind == "dynamic":
        factor = float(scaling["factor"])
        return RopeSpec(theta=theta, type="dynamic", factor=factor, original_context=context)
    if kind == "llama3":
        return RopeSpec(
            theta=theta,
            type="llama3",
            factor=float(scaling["factor"]),
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
            original_context=original,
        )
    if kind == "yarn":
        return _yarn_from_config(scaling, theta, original, context)
    return RopeSpec(theta=theta)


def _require_known_rope(config: Mapping[str, Any], scaling: Mapping[str, Any], kind: Any) -> None:
    types = get_args(RopeType)
    unknown = sorted(set(scaling) - ROPE_KEYS)
    if kind not in types:
        raise BadInput(f"RoPE scaling {kind!r} is not supported", f"llx knows {', '.join(types)}")
    if unknown:
        raise BadInput(
            f"RoPE scaling {kind!r} has a key {unknown[0]!r} that is not supported",
            "export a checkpoint whose config.json has only the keys that transformers reads",
        )
    for place in (config, scaling):
        part = place.get("partial_rotary_factor")
        if part is not None and float(part) != 1.0:
            raise BadInput(
                f"the checkpoint's partial_rotary_factor is {part}, not 1",
                "llx exports LLaMA models, whose RoPE rotates the whole of each head",
            )


def _yarn_from_config(
    scaling: Mapping[str, Any], theta: float, original: int, context: int
) -> RopeSpec:
    factor = context / original if scaling["factor"] is None else float(scaling["factor"])
    attention, one, all_dim = (
        scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim")
    )
    if attention is None and one and all_dim:
        attention = yarn_attention(factor, float(one)) / yarn_attention(factor, float(all_dim))
    return RopeSpec(
        theta=theta,
        type="yarn",
        factor=factor,
        original_context=original,
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        attention_factor=yarn_attention(factor) if attention is None else float(attention),
        truncate=bool(scaling.get("truncate", True)),
    )


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cosines and sines by (equation 22 of the paper): 0.1·mscale·ln s + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
