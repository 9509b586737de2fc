"""The kinds of config.json that describe a LLaMA or its kin: what each says, and what it means.

Types, defaults and meanings are those of transformers' configuration classes. This table is the
one place that knows a model by its name: what follows knows the fields of `LlamaSpec` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from llx.llama.config_rope import Context, RopeRules
from llx.llama.spec import MOST_EPS, MOST_LAYERS, MOST_OTHER, MOST_ROWS, MOST_WIDTH
from llx.typed import plainly

Layers = Annotated[int, Meta(ge=1, le=MOST_LAYERS)]
Width = Annotated[int, Meta(ge=1, le=MOST_WIDTH)]
Rows = Annotated[int, Meta(ge=1, le=MOST_ROWS)]
Eps = Annotated[float, Meta(ge=0, le=MOST_EPS)]
Scale = Annotated[float, Meta(ge=1 / MOST_OTHER, le=MOST_OTHER)]
MULTIPLIERS = (
    *("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
)

SLIDING, FULL = "sliding_attention", "full_attention"
FORMER = {"attention": FULL}  # how layer_types spelt it once
# What every file says; where one does not, transformers has a default of its own.
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings", "rms_norm_eps"),
)


class Config(msgspec.Struct):
    """What is read of every config.json beside its RoPE; defaults are LlamaConfig's.

    `said`: the keys whose default is told where the file leaves them out. A `head_dim` that may be
    left out and not be null, as of classes that look for the attribute, is `UNSET`.
    """

    said: ClassVar[tuple[str, ...]] = SIZES
    vocab_size: Rows = 32000
    hidden_size: Width = 4096
    intermediate_size: Rows = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Width = 32
    num_key_value_heads: Width | None = None
    head_dim: Width | UnsetType | None = None
    hidden_act: str = "silu"
    max_position_embeddings: Context = 2048
    rms_norm_eps: Eps = 1e-6
    tie_word_embeddings: bool = False

    def parts(self) -> dict[str, Any]:
        """The spec's fields of the optional parts that it asks for."""
        return {}


class Llama(Config):
    """LLaMA; its kin have the same two switches."""

    attention_bias: bool = False
    mlp_bias: bool = False

    def parts(self) -> dict[str, Any]:
        """Biases."""
        return {"attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias}


class Mistral(Config):
    """Mistral: v0.1 has a window, in all layers; later ones have none, and say null."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "sliding_window")
    intermediate_size: Rows = 14336
    num_key_value_heads: Width = 8
    max_position_embeddings: Context = 131072
    sliding_window: Context | None = 4096

    def parts(self) -> dict[str, Any]:
        """The window."""
        kind = FULL if self.sliding_window is None else SLIDING
        return _window(self, self.sliding_window, [kind] * self.num_hidden_layers)


class Ministral(Mistral):
    """Ministral: a Mistral whose layers are named one by one."""

    layer_types: list[str] | None = None

    def parts(self) -> dict[str, Any]:
        """The window, in the layers that are named."""
        if self.sliding_window is None:  # as transformers, which makes a mask of it in any case
            raise ValueError("sliding_window is null, and a Ministral needs one")
        if self.head_dim is None:
            raise ValueError("head_dim is not given, and a Ministral needs it")
        if self.layer_types is None:
            return Mistral.parts(self)
        return _window(self, self.sliding_window, self.layer_types)


class Qwen2(Config):
    """Qwen2 and Qwen2.5: biases on q, k and v."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads")
    vocab_size: Rows = 151936
    head_dim: Width | UnsetType = UNSET
    intermediate_size: Rows = 22016
    num_key_value_heads: Width | None = 32
    max_position_embeddings: Context = 32768
    use_sliding_window: bool = False
    sliding_window: Context | None = 4096
    max_window_layers: Annotated[int, Meta(ge=0, le=MOST_LAYERS)] = 28
    layer_types: list[str] | None = None

    def parts(self) -> dict[str, Any]:
        """Biases, and the window of the layers from `max_window_layers` on."""
        return {"qkv_bias": True, **self._windowed()}

    def _windowed(self) -> dict[str, Any]:
        window = self.sliding_window if self.use_sliding_window else None
        types = self.layer_types
        if types is None:
            slides = self.num_hidden_layers if window is None else self.max_window_layers
            types = [FULL if i < slides else SLIDING for i in range(self.num_hidden_layers)]
        return _window(self, window, types)


class Qwen3(Qwen2):
    """Qwen3, dense: norms of each head's queries and keys."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "head_dim")
    head_dim: Width = 128
    attention_bias: bool = False

    def parts(self) -> dict[str, Any]:
        """Norms, biases where it asks for them, and the window as in Qwen2."""
        return {"qk_norm": True, "attention_bias": self.attention_bias, **self._windowed()}


class Granite(Llama):
    """Granite 3: a LLaMA with multipliers."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, *MULTIPLIERS)
    head_dim: Width | UnsetType = UNSET
    embedding_multiplier: Scale = 1.0
    logits_scaling: Scale = 1.0
    residual_multiplier: Scale = 1.0
    attention_multiplier: Scale = 1.0

    def parts(self) -> dict[str, Any]:
        """Biases and multipliers; logits are divided by theirs."""
        return {
            **Llama.parts(self),
            "embed_scale": self.embedding_multiplier,
            "attention_scale": self.attention_multiplier,
            "residual_scale": self.residual_multiplier,
            "logit_scale": 1 / self.logits_scaling,
        }


class SmolLM3(Llama):
    """SmolLM3: of four layers one does not turn."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads")
    vocab_size: Rows = 128256
    head_dim: Width | UnsetType = UNSET
    hidden_size: Width = 2048
    num_hidden_layers: Layers = 36
    num_attention_heads: Width = 16
    num_key_value_heads: Width | None = 4
    max_position_embeddings: Context = 32768
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    sliding_window: Context | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Annotated[int, Meta(ge=1)] = 4
    layer_types: list[str] | None = None

    def parts(self) -> dict[str, Any]:
        """Biases, the layers without RoPE, and the window of those, where one is asked for."""
        layers = range(self.num_hidden_layers)
        turns = self.no_rope_layers  # which says, in spite of its name, where there is RoPE
        if turns is None:
            turns = [int((layer + 1) % self.no_rope_layer_interval != 0) for layer in layers]
        if len(turns) < self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers has {len(turns)} entries, and num_hidden_layers is {len(layers)}"
            )
        nope = tuple(layer for layer in layers if not turns[layer])
        if len(nope) == len(layers):
            raise ValueError("no_rope_layers leaves RoPE in no layer, and no token a position")
        types, window = self.layer_types, self.sliding_window
        if types is None:  # where they are given, the window is theirs without the switch, too
            window = window if self.use_sliding_window else None
            types = [SLIDING if window and layer in nope else FULL for layer in layers]
        return {**Llama.parts(self), "nope": nope, **_window(self, window, types)}


class Phi3(Config):
    """Phi-3 and Phi-4-mini: q, k and v are one stored tensor, gate and up another."""

    vocab_size: Rows = 32064
    hidden_size: Width = 3072
    intermediate_size: Rows = 8192
    head_dim: Width | UnsetType = UNSET
    max_position_embeddings: Context = 4096
    original_max_position_embeddings: Context = 4096
    rms_norm_eps: Eps = 1e-5
    sliding_window: Context | None = None

    def parts(self) -> dict[str, Any]:
        """The window, of all layers."""
        kind = FULL if self.sliding_window is None else SLIDING
        return _window(self, self.sliding_window, [kind] * self.num_hidden_layers)


class InternLM3(Llama):
    """InternLM3: a LLaMA that has other names for its two switches, and one of them is both."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "head_dim")
    vocab_size: Rows = 128512
    intermediate_size: Rows = 10240
    num_hidden_layers: Layers = 48
    num_key_value_heads: Width | None = 2
    head_dim: Width | None = 128
    max_position_embeddings: Context = 32768
    rms_norm_eps: Eps = 1e-5
    qkv_bias: bool | UnsetType = UNSET
    bias: bool | UnsetType = UNSET

    def parts(self) -> dict[str, Any]:
        """Biases, everywhere or nowhere."""
        attention = self.attention_bias if self.qkv_bias is UNSET else self.qkv_bias
        mlp = self.mlp_bias if self.bias is UNSET else self.bias
        if attention != mlp:
            raise ValueError("qkv_bias (attention_bias) and bias (mlp_bias) are not the same")
        return {"attention_bias": attention, "mlp_bias": mlp}


class IQuestCoder(Llama):
    """IQuest Coder: a LLaMA of other defaults."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "head_dim")
    vocab_size: Rows = 76800
    hidden_size: Width = 5120
    intermediate_size: Rows = 27648
    num_hidden_layers: Layers = 80
    num_attention_heads: Width = 40
    num_key_value_heads: Width | None = 8
    head_dim: Width | None = 128
    max_position_embeddings: Context = 131072
    rms_norm_eps: Eps = 1e-5
    clip_qkv: float | None = None
    use_sliding_window: bool | None = False

    def parts(self) -> dict[str, Any]:
        """Biases. What transformers refuses is refused."""
        if self.clip_qkv is not None:
            raise ValueError("clip_qkv is not null: transformers does not clip, either")
        if self.use_sliding_window:
            raise ValueError("use_sliding_window is true: transformers has no window here, either")
        return Llama.parts(self)


class SeedOss(Llama):
    """Seed-OSS: a LLaMA with biases on q, k and v, and a switch for o of its own."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "head_dim", "attention_bias")
    vocab_size: Rows = 155136
    intermediate_size: Rows = 27648
    num_hidden_layers: Layers = 64
    num_attention_heads: Width = 80
    num_key_value_heads: Width | None = 8
    head_dim: Width | None = 128
    max_position_embeddings: Context = 524288
    attention_bias: bool = True
    attention_out_bias: bool = False

    def parts(self) -> dict[str, Any]:
        """Biases, by three switches."""
        inner, outer = self.attention_bias, self.attention_out_bias
        if outer and not inner:
            raise ValueError("attention_out_bias without attention_bias: llx has no such biases")
        return {
            "attention_bias": outer,
            "qkv_bias": inner and not outer,
            "mlp_bias": self.mlp_bias,
        }


class Cwm(Config):
    """Code World Model: a LLaMA of which three layers of four have a window."""

    said: ClassVar[tuple[str, ...]] = (*SIZES, "num_key_value_heads", "head_dim", "sliding_window")
    vocab_size: Rows = 128256
    hidden_size: Width = 6144
    intermediate_size: Rows = 21504
    num_hidden_layers: Layers = 64
    num_attention_heads: Width = 48
    num_key_value_heads: Width = 8
    head_dim: Width = 128
    max_position_embeddings: Context = 131072
    rms_norm_eps: Eps = 1e-5
    mlp_bias: bool = False
    sliding_window: Context = 8192
    layer_types: list[str] | None = None

    def parts(self) -> dict[str, Any]:
        """The window, of all layers but every fourth unless they are named."""
        types = self.layer_types
        if types is None:
            types = [SLIDING if layer % 4 else FULL for layer in range(self.num_hidden_layers)]
        return {"mlp_bias": self.mlp_bias, **_window(self, self.sliding_window, types)}


class MiniCPM(Config):
    """MiniCPM 1, 2 and 4, dense: a LLaMA with multipliers that follow from its sizes.

    Types, defaults and meanings are those of its own code: transformers has none.
    """

    said: ClassVar[tuple[str, ...]] = (*SIZES, "scale_emb", "scale_depth", "dim_model_base")
    head_dim: Width | UnsetType = UNSET
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    scale_emb: Scale = 1.0
    scale_depth: Scale = 1.0
    dim_model_base: Scale = 1.0

    def parts(self) -> dict[str, Any]:
        """Biases and multipliers."""
        return {
            "attention_bias": self.attention_bias,
            "embed_scale": self.scale_emb,
            "residual_scale": self.scale_depth / math.sqrt(self.num_hidden_layers),
            "logit_scale": self.dim_model_base / self.hidden_size,
        }


def _window(config: Config, window: int | None, named: list[str]) -> dict[str, Any]:
    """The window of the layers that slide."""
    types = [FORMER.get(one, one) for one in named]
    other = next((one for one in types if one not in (SLIDING, FULL)), None)
    if other is not None:
        raise ValueError(f"layer_types has {plainly(other)}, which is neither {FULL} nor {SLIDING}")
    if len(types) != config.num_hidden_layers:
        raise ValueError(
            f"layer_types has {len(types)} entries, and num_hidden_layers is "
            f"{config.num_hidden_layers}"
        )
    windowed = tuple(layer for layer, one in enumerate(types) if one == SLIDING)
    if windowed and window is None:
        raise ValueError(f"layer_types has {SLIDING}, and sliding_window is not given or not used")
    if not windowed or window is None:
        return {}
    return {"window": window, "windowed": windowed}


@dataclass(frozen=True)
class Family:
    """A kind of config.json: what it calls its model, what it is read as, and its RoPE.

    `classes`: of the model with its head, and of what lies below it. `fused`: the modules of a
    layer that are stored as one, and what its rows are, in order.
    """

    classes: tuple[str, ...]
    config: type[Config]
    rope: RopeRules = field(default_factory=RopeRules)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        name = self.classes[0].removesuffix("ForCausalLM")
        return "LLaMA" if name == "Llama" else name

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are read of it, beside those of RoPE."""
        return frozenset(one.encode_name for one in msgspec.structs.fields(self.config))


CWM_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA = Family(("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"), Llama)
# By `model_type`.
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family(("MistralForCausalLM", "MistralModel"), Mistral),
    "ministral": Family(("MinistralForCausalLM", "MinistralModel"), Ministral),
    "qwen2": Family(("Qwen2ForCausalLM", "Qwen2Model"), Qwen2),
    "qwen3": Family(("Qwen3ForCausalLM", "Qwen3Model"), Qwen3),
    "granite": Family(("GraniteForCausalLM", "GraniteModel"), Granite),
    "smollm3": Family(("SmolLM3ForCausalLM", "SmolLM3Model"), SmolLM3, RopeRules(2000000.0)),
    # transformers saves it as a LlamaForCausalLM; so does it with the next.
    "internlm3": Family(("InternLM3ForCausalLM", "LlamaForCausalLM", "LlamaModel"), InternLM3),
    "iquestcoder": Family(
        ("IQuestCoderForCausalLM", "LlamaForCausalLM", "LlamaModel"), IQuestCoder
    ),
    "seed_oss": Family(("SeedOssForCausalLM", "SeedOssModel"), SeedOss),
    "cwm": Family(("CwmForCausalLM", "CwmModel"), Cwm, RopeRules(1000000.0, block=CWM_ROPE)),
    "minicpm": Family(("MiniCPMForCausalLM", "MiniCPMModel"), MiniCPM),
    "phi3": Family(
        ("Phi3ForCausalLM", "Phi3Model"),
        Phi3,
        # "su" and "yarn": what LongRoPE was called before it had its name.
        RopeRules(
            types={"default": "default"} | dict.fromkeys(("longrope", "su", "yarn"), "longrope"),
            part=True,
            original=4096,
        ),
        {
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
    ),
}


def family_of_class(names: Iterable[str]) -> Family | None:
    """The family that calls its model so, which is all that a file without a model_type says."""
    return next((one for name in names for one in FAMILIES.values() if name in one.classes), None)
