"""RoPE as a Hugging Face config.json says it, read as transformers 5 reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llx.errors import BadInput
from llx.llama.spec import (
    LEAST_FACTOR,
    MOST_CONTEXT,
    MOST_FACTOR,
    MOST_OTHER,
    MOST_THETA,
    RopeSpec,
    yarn_attention,
)
from llx.typed import checked, plainly, shown, typed

REMEDY = "correct it, or use the config.json that belongs to these weights"

Theta = Annotated[float, Meta(ge=1, le=MOST_THETA)]
Factor = Annotated[float, Meta(ge=LEAST_FACTOR, le=MOST_FACTOR)]
Positive = Annotated[float, Meta(gt=0, le=MOST_OTHER)]
NotNegative = Annotated[float, Meta(ge=0, le=MOST_OTHER)]
Context = Annotated[int, Meta(ge=1, le=MOST_CONTEXT)]
Part = Annotated[float, Meta(gt=0, le=1)]


class Default(msgspec.Struct):
    """What is read of plain RoPE."""

    rope_theta: Theta = 10000.0


class Linear(Default, kw_only=True):
    """Of position interpolation, and of dynamic scaling."""

    factor: Factor


class Llama3(Linear, kw_only=True):
    """Of Llama 3.1's rule."""

    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Context


class Yarn(Default, kw_only=True):
    """Of YaRN: a null or a 0 is transformers' default, but for `truncate`, where null is false."""

    factor: Factor | None
    original_max_position_embeddings: Context
    attention_factor: Positive | None = None
    beta_fast: NotNegative | None = None
    beta_slow: NotNegative | None = None
    mscale: NotNegative | None = None
    mscale_all_dim: NotNegative | None = None
    truncate: bool | None = True


class LongRope(Default, kw_only=True):
    """Of LongRoPE. The long factors are of beyond the original context, and not used."""

    short_factor: list[Factor]
    long_factor: list[float]
    original_max_position_embeddings: Context
    factor: Factor | None = None
    attention_factor: Positive | None = None


KINDS: dict[str, type[Default]] = {
    "default": Default,
    "linear": Linear,
    "dynamic": Linear,
    "llama3": Llama3,
    "yarn": Yarn,
    "longrope": LongRope,
}
WITH_ORIGINAL = ("llama3", "yarn", "longrope")
# What stands in a block without being of its type: `finetuned` is the YaRN authors' own note.
BESIDE = frozenset({"type", "rope_type", "rope_theta", "partial_rotary_factor", "finetuned"})


@dataclass(frozen=True)
class RopeRules:
    """What a family has of its own: how it spells RoPE's types, and what holds if nothing is said.

    `part`: it may turn a part of each head (`partial_rotary_factor`). `original`: the original
    context, of a family that has one in every file, beside the block. `block`: what stands for one
    where there is none.
    """

    theta: float = 10000.0
    types: Mapping[str, str] = field(default_factory=lambda: {kind: kind for kind in KINDS})
    part: bool = False
    original: int | None = None
    block: Mapping[str, Any] = field(default_factory=dict)


def rope_from_config(
    config: Mapping[str, Any], context: int, tell: Callable[[str], None], rules: RopeRules
) -> RopeSpec:
    """RoPE of a config.json; `tell` is told of keys that stand there and do nothing.

    Raises `BadInput` for a scaling or a value that this model does not have, by its key.
    """
    name, block = _block_of(config, tell, rules)
    place = f"config.json's {name}."
    key = "rope_type" if "rope_type" in block else "type"
    spelt = block.get(key, "default")
    if not isinstance(spelt, str) or spelt not in rules.types:
        raise BadInput(
            f"{place}{key}: RoPE scaling {shown(spelt)} is not supported",
            f"llx knows {', '.join(rules.types)} of this model",
        )
    kind = rules.types[spelt]
    found = typed(_placed(config, block, kind, context, tell, rules), KINDS[kind], place, REMEDY)
    if not rules.part:
        _require_whole_heads(config, block, kind)
    _tell_of_unread(config, block, name, spelt, tell, rules)
    try:
        return _rope(kind, found, context)
    except ValueError as error:
        raise BadInput(f"config.json's {name}: {error}", REMEDY) from None


def rotary_dim_from_config(
    config: Mapping[str, Any], head_dim: int, rules: RopeRules
) -> int | None:
    """How many values of each head RoPE turns; None for all, of a family that may turn a part."""
    if not rules.part:
        return None
    name, block = _block_of(config, lambda _: None, rules)
    inner = "partial_rotary_factor" in block
    place = f"config.json's {f'{name}.' if inner else ''}partial_rotary_factor"
    part = (block if inner else config).get("partial_rotary_factor", 1.0)
    turned = int(head_dim * checked(part, Part, place, REMEDY))
    if turned < 2 or turned % 2:
        raise BadInput(
            f"{place} is {shown(part)}: of the {head_dim} values of a head it turns {turned}, and "
            "RoPE turns pairs",
            REMEDY,
        )
    return None if turned == head_dim else turned


def _block_of(
    config: Mapping[str, Any], tell: Callable[[str], None], rules: RopeRules
) -> tuple[str, Mapping[str, Any]]:
    """The block that transformers reads, and its name: the older one, unless it is empty."""
    newer = checked(
        config.get("rope_parameters"),
        dict[str, Any] | None,
        "config.json's rope_parameters",
        REMEDY,
    )
    name, block = "rope_parameters", rules.block if newer is None else newer
    if config.get("rope_scaling"):
        name = "rope_scaling"
        block = checked(config[name], dict[str, Any], f"config.json's {name}", REMEDY)
        if newer and newer != block:
            tell("config.json's rope_parameters is not read: rope_scaling goes before it")
    nested = [key for key, value in block.items() if isinstance(value, dict)]
    if nested:
        raise BadInput(
            f"config.json's {name} holds {shown(nested[0])}, a RoPE of some of the layers",
            "export a checkpoint whose layers share one RoPE, as every LLaMA's do",
        )
    return name, block


def _placed(
    config: Mapping[str, Any],
    block: Mapping[str, Any],
    kind: str,
    context: int,
    tell: Callable[[str], None],
    rules: RopeRules,
) -> dict[str, Any]:
    """The block's values, and those that stand beside it where transformers looks for them there.

    theta is taken from beside the block where the block has none, the original context where there
    is one beside it.
    """
    values = dict(block)
    if "rope_theta" not in block:
        if "rope_theta" not in config:
            usual = f"{rules.theta:g} is taken, transformers' default"
            tell(f"config.json does not say rope_theta: {usual}")
        theta = config.get("rope_theta", rules.theta)
        values["rope_theta"] = checked(theta, Theta, "config.json's rope_theta", REMEDY)
    original = "original_max_position_embeddings"
    if kind in WITH_ORIGINAL and (original in config or rules.original is not None):
        outer = _whole(config.get(original, rules.original))
        values[original] = checked(outer, Context, f"config.json's {original}", REMEDY)
    else:
        values[original] = _whole(block.get(original, context))
    return values


def _whole(value: object) -> object:
    """A count that was written with a decimal point, which transformers takes here, as an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _require_whole_heads(config: Mapping[str, Any], block: Mapping[str, Any], kind: str) -> None:
    """Scaled frequencies are made for a part of the head; then transformers fails, too."""
    part = block.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    given = "partial_rotary_factor" in block or part is not None
    if kind != "default" and given and part != 1:
        raise BadInput(
            f"the checkpoint's partial_rotary_factor is {shown(part)}, not 1",
            "llx exports LLaMA models, whose RoPE rotates the whole of each head",
        )


def _tell_of_unread(
    config: Mapping[str, Any],
    block: Mapping[str, Any],
    name: str,
    kind: str,
    tell: Callable[[str], None],
    rules: RopeRules,
) -> None:
    """Keys that transformers does not read either, but somebody may have meant; `kind` as spelt."""
    known = {one.encode_name for one in msgspec.structs.fields(KINDS[rules.types[kind]])} | BESIDE
    unread = [plainly(key) for key in block if key not in known and block[key]]
    if unread:
        tell(
            f"config.json's {name} has {', '.join(unread)}, which RoPE of type {kind!r} does not "
            "read, here or in transformers"
        )
    if block.get("type", kind) != kind:
        tell(
            f"config.json's {name} has type {shown(block['type'])} and rope_type {kind!r}: "
            "rope_type is read, as in transformers"
        )
    original = "original_max_position_embeddings"
    if config.get(original) not in (None, rules.original) and original not in known:
        tell(f"config.json's {original} is not read: RoPE is of type {kind!r}")
    outer = config.get("rope_theta")
    if outer is not None and block.get("rope_theta", outer) != outer:
        tell(
            f"config.json's rope_theta {shown(outer)} is not read: {name} has "
            f"{shown(block['rope_theta'])}, which goes before it, as in transformers"
        )
    part = block.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is not None and part != 1 and not rules.part:
        tell(
            f"config.json's partial_rotary_factor {shown(part)} is not read: RoPE rotates the "
            "whole of each head, as in transformers' LLaMA"
        )


def _rope(kind: str, found: Default, context: int) -> RopeSpec:
    theta = found.rope_theta
    if isinstance(found, Yarn):
        return _yarn(found, context)
    if isinstance(found, LongRope):
        return _longrope(found, context)
    if isinstance(found, Llama3):
        return RopeSpec(
            theta=theta,
            type="llama3",
            factor=found.factor,
            low_freq_factor=found.low_freq_factor,
            high_freq_factor=found.high_freq_factor,
            original_context=found.original_max_position_embeddings,
        )
    if kind == "dynamic" and isinstance(found, Linear):
        return RopeSpec(theta=theta, type="dynamic", factor=found.factor, original_context=context)
    if isinstance(found, Linear):
        return RopeSpec(theta=theta, type="linear", factor=found.factor)
    return RopeSpec(theta=theta)


def _yarn(found: Yarn, context: int) -> RopeSpec:
    original = found.original_max_position_embeddings
    factor = context / original if found.factor is None else found.factor
    attention, one, all_dim = found.attention_factor, found.mscale, found.mscale_all_dim
    if attention is None and one and all_dim:
        attention = yarn_attention(factor, one) / yarn_attention(factor, all_dim)
    return RopeSpec(
        theta=found.rope_theta,
        type="yarn",
        factor=factor,
        original_context=original,
        beta_fast=found.beta_fast or 32.0,
        beta_slow=found.beta_slow or 1.0,
        attention_factor=yarn_attention(factor) if attention is None else attention,
        truncate=bool(found.truncate),
    )


def _longrope(found: LongRope, context: int) -> RopeSpec:
    """Up to the original context; the attention factor is that of the whole one in any case."""
    original = found.original_max_position_embeddings
    if len(found.long_factor) != len(found.short_factor):
        raise ValueError(
            f"long_factor has {len(found.long_factor)} entries and short_factor "
            f"{len(found.short_factor)}: each has one for each pair of a head"
        )
    factor = context / original if found.factor is None else found.factor
    attention = found.attention_factor
    if attention is None and factor > 1:
        if original == 1:
            raise ValueError("original_max_position_embeddings is 1, whose logarithm is 0")
        attention = math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeSpec(
        theta=found.rope_theta,
        type="longrope",
        original_context=original,
        attention_factor=1.0 if attention is None else attention,
        short_factors=tuple(found.short_factor),
    )
