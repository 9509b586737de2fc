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
    divided by `factor`, and those between are blended.
    """
    inverse = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.type == "linear":
        return np.asarray(inverse / rope.factor)
    if rope.type == "llama3":
        wavelength = 2 * math.pi / inverse
        turns = rope.original_context / wavelength
        span = rope.high_freq_factor - rope.low_freq_factor
        kept = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
        return np.asarray(kept * inverse + (1 - kept) * inverse / rope.factor)
    return np.asarray(inverse)


def rope_tables(
    rope: RopeSpec, head_dim: int, positions: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines, each [positions, D/2], in float64.

    Cast them only afterwards: float32 angles are off by 6e-3 at position 128k, and float16 angles
    are useless past 2k.
    """
    angles = np.outer(positions, inverse_frequencies(rope, head_dim))
    return np.cos(angles), np.sin(angles)
