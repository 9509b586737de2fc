"""What params.json says of a checkpoint in Meta's format, and what only a known model can add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llx.errors import BadInput
from llx.llama.config_rope import Factor, Positive, Theta
from llx.llama.families import Eps, Layers, Width
from llx.llama.presets import PRESETS
from llx.llama.spec import MOST_ROWS, LlamaSpec, RopeSpec
from llx.typed import plainly, typed

REMEDY = "correct it, or use the params.json that belongs to these weights"
DEFAULT_THETA = 10000.0
# The reference code scales for Llama 3.1's context, from Llama 3's, and by 8 where nobody says.
SCALED = RopeSpec(type="llama3", factor=8.0, original_context=8192)
SCALED_CONTEXT = 131072
# LLaMA 1's, the shortest of all: no model was trained for less.
SHORTEST_CONTEXT = 2048
# A params.json has no words for the optional parts, but for the window of Mistral's first.
PLAIN = tuple(preset for preset in PRESETS if preset.spec.parts <= {"window"})


class Params(msgspec.Struct):
    """Values of params.json that decide the arithmetic: the reference code's `ModelArgs`."""

    dim: Width
    n_layers: Layers
    n_heads: Width
    norm_eps: Eps
    n_kv_heads: Width | None = None
    head_dim: Width | None = None
    vocab_size: Annotated[int, Meta(ge=-1, le=MOST_ROWS)] = -1
    rope_theta: Theta | None = None
    use_scaled_rope: bool | None = None
    rope_scaling_factor: Factor | None = None
    rope_high_freq_factor: Positive | None = None


# Of sizes that the tensors have, and of how a model is run.
SILENT = frozenset(
    {
        *("multiple_of", "ffn_dim_multiplier", "hidden_dim", "max_seq_len", "max_batch_size"),
        *("model_parallel_size", "vision_chunk_size", "vision_max_num_chunks"),
    }
)
# Other models that are published with a params.json.
OTHERS = {
    "moe": "a mixture of experts",
    "moe_args": "a mixture of experts",
    "vision_encoder": "a model of images",
    "vision_num_cross_attention_layers": "a model of images",
    "quantization_args": "quantized",
    "quantization": "quantized",
    "lora_args": "with adapters of its own",
}


def params_of(values: Mapping[str, Any], path: Path, tell: Callable[[str], None]) -> Params:
    """The values of a params.json at `path`, each of its type and within its range.

    Raises `BadInput` by the value's name, or by what else than a LLaMA the checkpoint is.
    """
    for key, what in OTHERS.items():
        if values.get(key) not in (None, -1, 0, False, {}, []):
            raise BadInput(
                f"{path} has {key}: the checkpoint is {what}, not a plain LLaMA",
                "llx exports LLaMA models; `llx models` lists them",
            )
    params = typed(values, Params, f"{path}'s ", REMEDY)
    known = {field.encode_name for field in msgspec.structs.fields(Params)} | SILENT | set(OTHERS)
    unread = [plainly(key) for key in values if key not in known and values[key]]
    if unread:
        tell(
            f"params.json has {', '.join(unread[:20])}, which no LLaMA reads: a model that was "
            "trained with such arithmetic would answer otherwise"
        )
    return params


def spec_of(
    params: Params,
    ffn_dim: int,
    vocab: int,
    tied: bool,
    context: int | None,
    tell: Callable[[str], None],
) -> LlamaSpec:
    """The spec of params.json and of the tensors' sizes.

    Neither says the context, nor by how much RoPE is scaled: a known model of these sizes does, or
    else the context is `context`, or so short that every LLaMA was trained for it. Raises
    `BadInput` where several models fit, or the sizes do not fit one another.
    """
    heads = params.n_heads
    sizes = {
        "layers": params.n_layers,
        "dim": params.dim,
        "heads": heads,
        "kv_heads": params.n_kv_heads or heads,
        "head_dim": params.head_dim or params.dim // heads,
        "ffn_dim": ffn_dim,
    }
    alike = [p.spec for p in PLAIN if _is_alike(p.spec, sizes, params)]
    exact = [s for s in alike if (s.vocab, s.norm_eps) == (vocab, params.norm_eps)]
    if exact and all(spec == exact[0] for spec in exact):
        return exact[0]
    if exact:
        names = [p.name for p in PLAIN if p.spec in exact]
        raise BadInput(f"params.json fits {', '.join(names)}", "say which it is with --model")
    rope = alike[0].rope if alike else _own_rope(params, tell)
    if context is None or context < 1:
        scaled = SCALED_CONTEXT if params.use_scaled_rope else SHORTEST_CONTEXT
        context = min((spec.context for spec in alike), default=scaled)
        tell(
            f"params.json does not say the model's context: {context} is taken, and --context says "
            "another"
        )
    try:
        return LlamaSpec(
            layers=params.n_layers,
            dim=params.dim,
            heads=heads,
            kv_heads=sizes["kv_heads"],
            head_dim=sizes["head_dim"],
            ffn_dim=ffn_dim,
            vocab=vocab,
            context=context,
            norm_eps=params.norm_eps,
            rope=rope,
            tied=tied,
        )
    except ValueError as error:
        raise BadInput(f"params.json does not describe a LLaMA ({error})", REMEDY) from None


def _is_alike(spec: LlamaSpec, sizes: Mapping[str, int], params: Params) -> bool:
    """Whether a known model has these sizes and this RoPE, whatever its vocabulary."""
    return (
        all(getattr(spec, name) == size for name, size in sizes.items())
        and spec.rope.theta == (params.rope_theta or DEFAULT_THETA)
        and (spec.rope.type == "llama3") == bool(params.use_scaled_rope)
        and params.rope_scaling_factor in (None, spec.rope.factor)
        and params.rope_high_freq_factor in (None, spec.rope.high_freq_factor)
    )


def _own_rope(params: Params, tell: Callable[[str], None]) -> RopeSpec:
    theta = params.rope_theta or DEFAULT_THETA
    if not params.use_scaled_rope:
        return RopeSpec(theta=theta)
    if params.rope_scaling_factor is None:
        tell(f"params.json does not say RoPE's factor: {SCALED.factor:g} is taken, Llama 3.1's")
    return replace(
        SCALED,
        theta=theta,
        factor=params.rope_scaling_factor or SCALED.factor,
        high_freq_factor=params.rope_high_freq_factor or SCALED.high_freq_factor,
    )


def require_agreement(params: Params, spec: LlamaSpec, path: Path) -> None:
    """Raise `BadInput` where params.json contradicts the model that the user named."""
    scaled = spec.rope.type == "llama3"
    named: dict[str, tuple[object, object]] = {
        "n_layers": (params.n_layers, spec.layers),
        "dim": (params.dim, spec.dim),
        "n_heads": (params.n_heads, spec.heads),
        "n_kv_heads": (params.n_kv_heads or params.n_heads, spec.kv_heads),
        "norm_eps": (params.norm_eps, spec.norm_eps),
        "rope_theta": (params.rope_theta or spec.rope.theta, spec.rope.theta),
        "use_scaled_rope": (
            scaled if params.use_scaled_rope is None else params.use_scaled_rope,
            scaled,
        ),
    }
    for key, (found, meant) in named.items():
        if found != meant:
            raise BadInput(
                f"{path} has {key} {found}, where the model that was named has {meant}",
                "name the model that these weights are, or leave out --size and --model",
            )
