"""RoPE as a GGUF file says it: llama.cpp's keys, and its table of divisors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.sources.gguf_keys import RopeKeys
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import LEAST_FACTOR, MOST_FACTOR, RopeSpec, yarn_attention
from llx.typed import shown

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


def rope_of(
    keys: RopeKeys, head_dim: int, context: int, divisors: NDArray[np.float32] | None
) -> RopeSpec:
    """RoPE of a file's keys below `llama.rope.`.

    Raises `BadInput` for what this model does not have: half-rotated heads, unknown scaling, YaRN
    with llama.cpp's own multipliers, a table of divisors that is not Llama 3.1's rule.
    """
    rotated = keys.dimension_count or head_dim
    if rotated != head_dim:
        raise BadInput(f"RoPE rotates {rotated} of the {head_dim} values of each head", REMEDY)
    # llama.cpp takes a factor without a type as linear, and read it from scale_linear once.
    kind, factor = keys.type, keys.factor or keys.scale_linear or 1.0
    if divisors is not None:
        if kind == "yarn" or (kind == "linear" and factor != 1.0):
            raise BadInput(f"RoPE is scaled twice, by {kind} and by {DIVISORS}", REMEDY)
        return _llama3_rule(keys.freq_base, head_dim, divisors)
    if kind == "yarn":
        return _yarn(keys, factor, context)
    if kind not in ("none", "linear"):
        raise BadInput(f"RoPE scaling {shown(kind)} is not supported in a GGUF file", REMEDY)
    if kind == "linear" and factor != 1.0:
        return RopeSpec(theta=keys.freq_base, type="linear", factor=factor)
    return RopeSpec(theta=keys.freq_base)


def _yarn(keys: RopeKeys, factor: float, context: int) -> RopeSpec:
    for key, neutral in YARN_EXTRAS.items():
        found = getattr(keys, key)
        if found not in neutral:
            raise BadInput(f"llama.rope.scaling.{key} is {found:g}, which is not supported", REMEDY)
    return RopeSpec(
        theta=keys.freq_base,
        type="yarn",
        factor=factor,
        original_context=keys.original or context,
        beta_fast=keys.yarn_beta_fast,
        beta_slow=keys.yarn_beta_slow,
        attention_factor=yarn_attention(factor),
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
