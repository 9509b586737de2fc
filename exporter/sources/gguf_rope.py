"""RoPE as a GGUF file says it: llama.cpp's keys, and its tables of divisors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.sources.gguf_architectures import Architecture
from llx.exporter.sources.gguf_keys import RopeKeys
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import LEAST_FACTOR, MOST_FACTOR, RopeSpec, yarn_attention
from llx.typed import shown

DIVISORS = "rope_freqs.weight"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
REMEDY = "export from the Hugging Face checkpoint"
# What llama.cpp multiplies YaRN by, and what leaves it YaRN's own; the first is what an absent key
# means. `yarn_attn_factor` is config.json's `attention_factor`, which llama.cpp's releases apply in
# different ways, so whatever stands there is refused.
YARN_EXTRAS = {
    "attn_factor": (1.0,),
    "yarn_attn_factor": (-1.0,),
    "yarn_ext_factor": (-1.0, 1.0),
    "yarn_log_multiplier": (0.0,),
}
# Divisors are stored as float32, computed in it, and steep where the rule blends.
TOLERANCE = 1e-4


def tables_of(architecture: Architecture) -> tuple[str, ...]:
    """The tables that are read of such a file, which hold no weights."""
    return (DIVISORS, SHORT, LONG) if architecture.longrope else (DIVISORS,)


def rotated_of(keys: RopeKeys, architecture: Architecture, head_dim: int) -> int:
    """How many values of each head RoPE turns. Raises `BadInput` for a part where all must."""
    rotated = keys.dimension_count or head_dim
    if rotated != head_dim and not (architecture.partial and rotated < head_dim):
        raise BadInput(f"RoPE rotates {rotated} of the {head_dim} values of each head", REMEDY)
    return rotated


def rope_of(
    keys: RopeKeys,
    architecture: Architecture,
    rotated: int,
    context: int,
    tables: Mapping[str, NDArray[np.float32]],
) -> RopeSpec:
    """RoPE of a file's keys below `….rope.`, and of its tables by their names.

    Raises `BadInput` for what this model does not have: unknown scaling, YaRN with llama.cpp's own
    multipliers, a table of divisors that is not Llama 3.1's rule.
    """
    # llama.cpp takes a factor without a type as linear, and read it from scale_linear once.
    kind, factor = keys.type, keys.factor or keys.scale_linear or 1.0
    scalings = [kind] if kind == "yarn" or (kind == "linear" and factor != 1.0) else []
    scalings += [name for name in (DIVISORS, SHORT) if name in tables]
    if len(scalings) > 1:
        raise BadInput(f"RoPE is scaled twice, by {scalings[0]} and by {scalings[1]}", REMEDY)
    if (SHORT in tables) != (LONG in tables):
        there, other = (SHORT, LONG) if SHORT in tables else (LONG, SHORT)
        raise BadInput(f"RoPE has {there}, and no {other}", REMEDY)
    if SHORT in tables:  # for which the converter writes no type
        return _longrope(keys, context, tables[SHORT])
    if kind == "yarn" and architecture.yarn:
        return _yarn(keys, factor, context)
    if kind not in ("none", "linear"):
        raise BadInput(f"RoPE scaling {shown(kind)} is not supported in a GGUF file", REMEDY)
    _require_neutral(keys, "attn_factor")
    if DIVISORS in tables:
        return _llama3_rule(keys.freq_base, rotated, tables[DIVISORS])
    if kind == "linear" and factor != 1.0:
        return RopeSpec(theta=keys.freq_base, type="linear", factor=factor)
    return RopeSpec(theta=keys.freq_base)


def _require_neutral(keys: RopeKeys, *names: str) -> None:
    """Raise `BadInput` where one of llama.cpp's own multipliers changes anything."""
    for name in names:
        found = getattr(keys, name)
        if found not in YARN_EXTRAS[name]:
            raise BadInput(f"rope.scaling.{name} is {found:g}, which is not supported", REMEDY)


def _yarn(keys: RopeKeys, factor: float, context: int) -> RopeSpec:
    _require_neutral(keys, *YARN_EXTRAS)
    return RopeSpec(
        theta=keys.freq_base,
        type="yarn",
        factor=factor,
        original_context=keys.original or context,
        beta_fast=keys.yarn_beta_fast,
        beta_slow=keys.yarn_beta_slow,
        attention_factor=yarn_attention(factor),
    )


def _longrope(keys: RopeKeys, context: int, short: NDArray[np.float32]) -> RopeSpec:
    """RoPE within the original context, where llama.cpp takes the short factors, too.

    The converter computes the attention factor of both contexts, and stores it as float32: where
    it is the paper's (section 3 of arXiv:2402.13753), it is meant to the last bit.
    """
    original = keys.original or context
    attention, stretch = keys.attn_factor, context / original
    if stretch > 1 and original > 1:
        papers = math.sqrt(1 + math.log(stretch) / math.log(original))
        attention = papers if math.isclose(papers, attention, rel_tol=1e-6) else attention
    return RopeSpec(
        theta=keys.freq_base,
        type="longrope",
        original_context=original,
        attention_factor=attention,
        short_factors=tuple(short.ravel().tolist()),
    )


def _llama3_rule(theta: float, head_dim: int, divisors: NDArray[np.float32]) -> RopeSpec:
    """The rule that a table of divisors [D/2] was computed by, if it is Llama 3.1's.

    llama.cpp's converter stores what the rule makes of each frequency. The longest wavelengths are
    divided by the factor itself, so the table's largest value names it: 8 for 3.1, 32 for 3.2.
    """
    factor = float(divisors.max(initial=0.0))
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise BadInput(f"{DIVISORS} is not the table of Llama 3.1's RoPE scaling", REMEDY)
    rope = RopeSpec(theta=theta, type="llama3", factor=factor, original_context=8192)
    plain = inverse_frequencies(RopeSpec(theta=theta), head_dim)
    wanted = plain / inverse_frequencies(rope, head_dim)
    if divisors.shape != wanted.shape or not np.allclose(divisors, wanted, rtol=TOLERANCE, atol=0):
        raise BadInput(f"{DIVISORS} is not the table of Llama 3.1's RoPE scaling", REMEDY)
    return rope
