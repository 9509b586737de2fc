"""RoPE tables at positions where lower precisions fail."""

from __future__ import annotations

import mpmath
import numpy as np

from llx.llama.rope import rope_tables
from llx.llama.spec import RopeSpec


def test_tables_are_right_at_the_end_of_a_long_context():
    position, head_dim, theta = 131071, 128, 500000.0
    cos, sin = rope_tables(RopeSpec(theta=theta), head_dim, np.arange(position + 1))
    with mpmath.workdps(40):
        for i in (0, 1, 7, 63):
            angle = mpmath.mpf(position) * mpmath.mpf(theta) ** (-mpmath.mpf(2 * i) / head_dim)
            assert abs(cos[position, i] - float(mpmath.cos(angle))) < 1e-9
            assert abs(sin[position, i] - float(mpmath.sin(angle))) < 1e-9


def test_position_zero_does_not_rotate():
    cos, sin = rope_tables(RopeSpec(), 10, np.arange(3))
    np.testing.assert_array_equal(cos[0], np.ones(5))
    np.testing.assert_array_equal(sin[0], np.zeros(5))
