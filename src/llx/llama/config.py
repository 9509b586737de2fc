"""A Hugging Face config.json as a `LlamaSpec`: strict and lax where transformers 5 is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llx.errors import BadInput
from llx.llama.config_keys import unread, unread_line
from llx.llama.config_rope import REMEDY, rope_from_config, rotary_dim_from_config
from llx.llama.families import FAMILIES, LLAMA, Family, family_of_class
from llx.llama.others import EXPERTS, experts_key, is_wrapped, what_is
from llx.llama.spec import LlamaSpec
from llx.typed import checked, plainly, shown, typed

KIN = "llx exports LLaMA models and their kin; `llx models` lists them"


def spec_from_config(
    config: Mapping[str, Any], tell: Callable[[str], None] = lambda _: None
) -> LlamaSpec:
    """The spec that a config.json describes, in the spelling of any transformers release.

    `tell` is told what stands there and is not read. Raises `BadInput`, which names the key, where
    the file is not a LLaMA's, a value has the wrong type or is out of its range, or the arithmetic
    asked for is not that of this model.
    """
    family = _family_of(config)
    _tell_of_unread(config, family, tell)  # first: what is misspelt may be what goes wrong below
    _require_nothing_else(config)
    found = typed(config, family.config, "config.json's ", REMEDY)
    if isinstance(config.get("rms_norm_eps"), int):
        raise BadInput(
            f"config.json's rms_norm_eps is {shown(config['rms_norm_eps'])}, an integer",
            "write it with a decimal point, as transformers demands",
        )
    if found.hidden_act not in ("silu", "swish"):
        raise BadInput(
            f"the checkpoint's activation (hidden_act) is {shown(found.hidden_act)}, not SiLU",
            "llx exports LLaMA models, whose feed-forward is SwiGLU",
        )
    heads, context = found.num_attention_heads, found.max_position_embeddings
    # transformers 5 demands it always, releases before only where it makes the head's size.
    if not found.head_dim and found.hidden_size % heads:
        raise BadInput(
            f"config.json's hidden_size {found.hidden_size} is no multiple of its "
            f"num_attention_heads {heads}, and head_dim is not given",
            REMEDY,
        )
    head_dim = found.head_dim or found.hidden_size // heads
    rope = rope_from_config(config, context, tell, family.rope)
    rotary_dim = rotary_dim_from_config(config, head_dim, family.rope)
    if rope.type == "longrope" and rope.original_context < context:
        tell(
            f"the context is cut from {context} to {rope.original_context}, LongRoPE's "
            "original_max_position_embeddings: beyond, a position is turned by its sequence's "
            "length, which a fixed table does not follow"
        )
        context = rope.original_context
    try:
        parts = found.parts()
        if parts.get("window", 0) >= context:  # it hides nothing
            del parts["window"], parts["windowed"]
        return LlamaSpec(
            layers=found.num_hidden_layers,
            dim=found.hidden_size,
            heads=heads,
            kv_heads=heads if found.num_key_value_heads is None else found.num_key_value_heads,
            head_dim=head_dim,
            ffn_dim=found.intermediate_size,
            vocab=found.vocab_size,
            context=context,
            norm_eps=found.rms_norm_eps,
            rope=rope,
            tied=found.tie_word_embeddings,
            rotary_dim=rotary_dim,
            **parts,
        )
    except ValueError as error:
        raise BadInput(f"config.json does not describe a {family.name} ({error})", REMEDY) from None


def _family_of(config: Mapping[str, Any]) -> Family:
    """Which kind of config.json it is. Raises `BadInput`, by its name, for another model's."""
    named = config.get("architectures") or []
    named = [named] if isinstance(named, str) else named
    named = checked(named, list[str], "config.json's architectures", REMEDY)
    kind = checked(config.get("model_type"), str | None, "config.json's model_type", REMEDY)
    # Without a model_type the class's from_pretrained loads it, transformers' AutoModel does not.
    family = FAMILIES.get(kind) if kind else family_of_class(named)
    ours = family is not None and any(name in family.classes for name in named)
    if family and (ours or (kind and not named)):
        _require_dense(config, family)
        return family
    found = ", ".join(plainly(name) for name in named[:4]) or plainly(kind or "none named")
    if not named and not kind:
        raise BadInput(
            "config.json names no model_type and no architecture",
            'use the model\'s own config.json, or add "model_type": "llama" if it is one',
        )
    what = f"the checkpoint's architecture is {found}, not LlamaForCausalLM"
    if any(name in LLAMA.classes for name in named):
        what = f"the checkpoint's model_type is {plainly(str(kind))}, not llama"
    elif family:
        what = f"the checkpoint's architecture is {found}, not {family.classes[0]}"
    if is_wrapped(config):
        raise BadInput(
            f"{what} alone: it holds a language model among others",
            "export the language model by itself, saved as LlamaForCausalLM, if it is a LLaMA",
        )
    if is_of := what_is(kind, named):
        what = f"the checkpoint ({found}) is {is_of}"
    raise BadInput(what, KIN)


def fused_from_config(config: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """Modules of a layer that the config's family stores as one tensor, and what its rows are."""
    return _family_of(config).fused


def _require_dense(config: Mapping[str, Any], family: Family) -> None:
    """Raise `BadInput` for experts under a name that has none."""
    if key := experts_key(config):
        raise BadInput(
            f"config.json's {key} is {shown(config[key])}: the checkpoint is {EXPERTS}, and not a "
            f"{family.name}",
            KIN,
        )


# Keys that transformers reads and this model has nothing for, and what each would do.
NOT_READ = {
    "text_config": "wraps another model's configuration",
    "per_layer_config": "makes layers differ from one another",
    "configuration_files": "names other configurations, by release of transformers",
}


def _require_nothing_else(config: Mapping[str, Any]) -> None:
    for key, does in NOT_READ.items():
        if config.get(key):
            raise BadInput(
                f"config.json's {key} {does}, which llx does not follow",
                "export a plain checkpoint, as transformers' save_pretrained writes a LLaMA",
            )
    if config.get("is_causal", True) is not True:
        raise BadInput(
            f"config.json's is_causal is {shown(config['is_causal'])}: a token may see later ones",
            "llx exports LLaMA models that generate, whose tokens see those before them alone",
        )
    for key in ("quantization_config", "compression_config"):
        quantization = config.get(key)
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            raise BadInput(
                f"the checkpoint is quantized ({plainly(method) if method else key})",
                "export from the checkpoint that it was made of, and let llx round the weights",
            )


def _tell_of_unread(config: Mapping[str, Any], family: Family, tell: Callable[[str], None]) -> None:
    defaults = family.config()
    for key in defaults.said:
        if key not in config:
            value = getattr(defaults, key)
            tell(f"config.json does not say {key}: {value} is taken, transformers' default")
    keys = unread(config, family.keys)
    if keys:
        tell(unread_line(keys, config, family.keys, family.name))
