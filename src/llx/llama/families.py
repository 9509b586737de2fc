"""The kinds of config.json that describe a LLaMA or its kin: what each says, and what it means.

Types, defaults and meanings are those of transformers' configuration classes. This table is the
one place that knows a model by its name: what follows knows the fields of `LlamaSpec` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llx.llama.config_rope import Context
from llx.llama.spec import MOST_EPS, MOST_LAYERS, MOST_OTHER, MOST_ROWS, MOST_WIDTH

Layers = Annotated[int, Meta(ge=1, le=MOST_LAYERS)]
Width = Annotated[int, Meta(ge=1, le=MOST_WIDTH)]
Rows = Annotated[int, Meta(ge=1, le=MOST_ROWS)]
Eps = Annotated[float, Meta(ge=0, le=MOST_EPS)]
Scale = Annotated[float, Meta(ge=-MOST_OTHER, le=MOST_OTHER)]

SLIDING, FULL = "sliding_attention", "full_attention"


class Config(msgspec.Struct):
    """What is read of every config.json beside its RoPE; defaults are LlamaConfig's."""

    vocab_size: Rows = 32000
    hidden_size: Width = 4096
    intermediate_size: Rows = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Width = 32
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    hidden_act: str = "silu"
    max_position_embeddings: Context = 2048
    rms_norm_eps: Eps = 1e-6
    tie_word_embeddings: bool = False

    def parts(self) -> dict[str, Any]:
        """The spec's fields of the optional parts that it asks for."""
        return {}


class Llama(Config):
    """LLaMA, and Granite but for its multipliers."""

    attention_bias: bool = False
    mlp_bias: bool = False

    def parts(self) -> dict[str, Any]:
        """Biases."""
        return {"attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias}


class Mistral(Config):
    """Mistral: v0.1 has a window, in all layers; later ones have none, and say null."""

    intermediate_size: Rows = 14336
    num_key_value_heads: Width | None = 8
    max_position_embeddings: Context = 131072
    sliding_window: Context | None = 4096

    def parts(self) -> dict[str, Any]:
        """The window."""
        return _window(self, self.sliding_window, [SLIDING] * self.num_hidden_layers)


class Ministral(Mistral):
    """Ministral: a Mistral whose layers are named one by one."""

    layer_types: list[str] | None = None

    def parts(self) -> dict[str, Any]:
        """The window, in the layers that are named."""
        if self.layer_types is None:
            return Mistral.parts(self)
        return _window(self, self.sliding_window, self.layer_types)


class Qwen2(Config):
    """Qwen2 and Qwen2.5: biases on q, k and v."""

    vocab_size: Rows = 151936
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
        types = self.layer_types
        if types is None:
            below = min(self.max_window_layers, self.num_hidden_layers)
            types = [FULL] * below + [SLIDING] * (self.num_hidden_layers - below)
        return _window(self, self.sliding_window if self.use_sliding_window else None, types)


class Qwen3(Qwen2):
    """Qwen3, dense: norms of each head's queries and keys."""

    head_dim: Width | None = 128
    attention_bias: bool = False

    def parts(self) -> dict[str, Any]:
        """Norms, biases where it asks for them, and the window as in Qwen2."""
        return {"qk_norm": True, "attention_bias": self.attention_bias, **self._windowed()}


class Granite(Llama):
    """Granite 3: a LLaMA with multipliers."""

    embedding_multiplier: Scale = 1.0
    logits_scaling: Scale = 1.0
    residual_multiplier: Scale = 1.0
    attention_multiplier: Scale = 1.0

    def parts(self) -> dict[str, Any]:
        """Biases and multipliers; logits are divided by theirs."""
        if not self.logits_scaling:
            raise ValueError("logits_scaling is 0, and logits are divided by it")
        return {
            **Llama.parts(self),
            "embed_scale": self.embedding_multiplier,
            "attention_scale": self.attention_multiplier,
            "residual_scale": self.residual_multiplier,
            "logit_scale": 1 / self.logits_scaling,
        }


class SmolLM3(Llama):
    """SmolLM3: of four layers one does not turn."""

    vocab_size: Rows = 128256
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
            raise ValueError("no_rope_layers has fewer entries than the model has layers")
        nope = tuple(layer for layer in layers if not turns[layer])
        types = self.layer_types or [SLIDING if layer in nope else FULL for layer in layers]
        window = self.sliding_window if self.use_sliding_window else None
        return {**Llama.parts(self), "nope": nope, **_window(self, window, types)}


def _window(config: Config, window: int | None, types: list[str]) -> dict[str, Any]:
    """The window of the layers that slide. One as long as the context hides nothing."""
    other = next((one for one in types if one not in (SLIDING, FULL)), None)
    if other is not None:
        raise ValueError(f"layer_types has {other!r}, which is neither {FULL} nor {SLIDING}")
    if len(types) < config.num_hidden_layers:
        raise ValueError("layer_types has fewer entries than the model has layers")
    if window is None or window >= config.max_position_embeddings:
        return {}
    layers = range(config.num_hidden_layers)
    windowed = tuple(layer for layer in layers if types[layer] == SLIDING)
    return {"window": window, "windowed": windowed} if windowed else {}


@dataclass(frozen=True)
class Family:
    """A kind of config.json: what it calls its model, what it is read as, and its RoPE's default.

    `classes`: of the model with its head, and of what lies below it.
    """

    classes: tuple[str, ...]
    config: type[Config]
    theta: float = 10000.0

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are read of it, beside those of RoPE."""
        return frozenset(field.encode_name for field in msgspec.structs.fields(self.config))


LLAMA = Family(("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"), Llama)
# By `model_type`.
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family(("MistralForCausalLM", "MistralModel"), Mistral),
    "ministral": Family(("MinistralForCausalLM", "MinistralModel"), Ministral),
    "qwen2": Family(("Qwen2ForCausalLM", "Qwen2Model"), Qwen2),
    "qwen3": Family(("Qwen3ForCausalLM", "Qwen3Model"), Qwen3),
    "granite": Family(("GraniteForCausalLM", "GraniteModel"), Granite),
    "smollm3": Family(("SmolLM3ForCausalLM", "SmolLM3Model"), SmolLM3, 2000000.0),
}
