"""RoPE tables: the cosines and sines that positions are rotated by."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llx.llama.spec import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> NDArray[np.float64]:
    """Angle per position of each rotated pair, [D/2], scaled as `rope` says.

    Source of the llama3 rule: the reference implementation of Llama 3.1. Wavelengths shorter than
    original_context/high_freq_factor stay, those longer than original_context/low_freq_factor are
    divided by `factor`, and those between are blended. `dynamic` is default: see `RopeSpec`.
    """
    inverse = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.type == "linear":
        return np.asarray(inverse / rope.factor)
    if rope.type == "longrope":
        return np.asarray(inverse / np.array(rope.short_factors))
    if rope.type == "llama3":
        wavelength = 2 * math.pi / inverse
        turns = rope.original_context / wavelength
        span = rope.high_freq_factor - rope.low_freq_factor
        kept = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
    elif rope.type == "yarn":
        kept = _kept_by_yarn(rope, head_dim)
    else:
        return np.asarray(inverse)
    return np.asarray(kept * inverse + (1 - kept) * inverse / rope.factor)


def _kept_by_yarn(rope: RopeSpec, head_dim: int) -> NDArray[np.float64]:
    """Which share of each pair's frequency YaRN leaves as it was, [D/2].

    Sections 3.2 and A.2 of arXiv:2309.00071, as transformers computes them: a ramp over the pairs,
    from the one that turns `beta_fast` times within the original context to the one that turns
    `beta_slow` times. The bound of `last` is D - 1 and not D/2 - 1 there, and so it is here.
    """

    def pair_that_turns(times: float) -> float:
        length = rope.original_context / (times * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.theta))

    first, last = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    span = last - first or 0.001
    return np.asarray(1 - np.clip((np.arange(head_dim // 2) - first) / span, 0.0, 1.0))


def rope_tables(
    rope: RopeSpec, head_dim: int, positions: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines, each [positions, D/2], in float64, times the attention factor.

    Cast them only afterwards: float32 angles are off by 6e-3 at position 128k, and float16 angles
    are useless past 2k.
    """
    angles = np.outer(positions, inverse_frequencies(rope, head_dim))
    scale = rope.attention_factor if rope.type in ("yarn", "longrope") else 1.0
    return scale * np.cos(angles), scale * np.sin(angles)
