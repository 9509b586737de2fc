"""RoPE as a GGUF file says it: llama.cpp's keys, and its table of divisors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import RopeSpec, yarn_attention

DIVISORS = "rope_freqs.weight"
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

Lookup = Callable[[str, Any], Any]


def rope_of(
    value: Lookup, head_dim: int, context: int, divisors: NDArray[np.float32] | None
) -> RopeSpec:
    """RoPE of a file: `value` looks up a key of `llama.rope`, with its default.

    Raises `BadInput` for what this model does not have: half-rotated heads, unknown scaling, YaRN
    with llama.cpp's own multipliers, a table of divisors that is not Llama 3.1's rule.
    """
    rotated = int(value("dimension_count", head_dim))
    if rotated != head_dim:
        raise BadInput(f"RoPE rotates {rotated} of the {head_dim} values of each head", REMEDY)
    theta = float(value("freq_base", 10000.0))
    # llama.cpp takes a factor without a type as linear, and read it from scale_linear once.
    kind = str(value("scaling.type", "linear"))
    factor = float(value("scaling.factor", 0.0)) or float(value("scale_linear", 0.0)) or 1.0
    if divisors is not None:
        if kind == "yarn" or (kind == "linear" and factor != 1.0):
            raise BadInput(f"RoPE is scaled twice, by {kind} and by {DIVISORS}", REMEDY)
        return _llama3_rule(theta, head_dim, divisors)
    if kind == "yarn":
        return _yarn(value, theta, factor, context)
    if kind not in ("none", "linear"):
        raise BadInput(f"RoPE scaling {kind!r} is not supported in a GGUF file", REMEDY)
    if kind == "linear" and factor != 1.0:
        return RopeSpec(theta=theta, type="linear", factor=factor)
    return RopeSpec(theta=theta)


def _yarn(value: Lookup, theta: float, factor: float, context: int) -> RopeSpec:
    for key, neutral in YARN_EXTRAS.items():
        found = float(value(f"scaling.{key}", neutral[0]))
        if found not in neutral:
            raise BadInput(f"llama.rope.scaling.{key} is {found:g}, which is not supported", REMEDY)
    return RopeSpec(
        theta=theta,
        type="yarn",
        factor=factor,
        original_context=int(value("scaling.original_context_length", 0)) or context,
        beta_fast=float(value("scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(value("scaling.yarn_beta_slow", 1.0)),
        attention_factor=yarn_attention(factor),
    )


def _llama3_rule(theta: float, head_dim: int, divisors: NDArray[np.float32]) -> RopeSpec:
    """The rule that a table of divisors [D/2] was computed by, if it is Llama 3.1's.

    llama.cpp's converter stores what the rule makes of each frequency. The longest wavelengths are
    divided by the factor itself, so the table's largest value names it: 8 for 3.1, 32 for 3.2.
    """
    rope = RopeSpec(theta=theta, type="llama3", factor=float(divisors.max()), original_context=8192)
    plain = inverse_frequencies(RopeSpec(theta=theta), head_dim)
    wanted = plain / inverse_frequencies(rope, head_dim)
    if divisors.shape != wanted.shape or not np.allclose(divisors, wanted, rtol=TOLERANCE, atol=0):
        raise BadInput(f"{DIVISORS} is not the table of Llama 3.1's RoPE scaling", REMEDY)
    return rope
