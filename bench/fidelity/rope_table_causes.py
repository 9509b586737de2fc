"""Why the RoPE tables of the weights file are not the model's: theta, scaling, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity.case import Cause, Hypothesis, cause_among
from llx.bench.fidelity.weight_causes import Array, alike
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import LlamaSpec, RopeSpec
from llx.precision import Compute


def cause_of_rope(
    cos: Array, sin: Array, spec: LlamaSpec, compute: Compute, tables: Callable[..., Any]
) -> Cause:
    """Why RoPE's tables [positions, D/2] are not those of the model.

    The frequencies that a table was made with are read out of it: of position 1 the angle of each
    pair, which is below π. `tables` makes them anew, as the type has them, of a `RopeSpec`.
    """
    # No RoPE has such numbers.
    return cause_among(_hypotheses(cos, sin, spec, compute, tables), (ValueError,))


def _hypotheses(
    cos: Array, sin: Array, spec: LlamaSpec, compute: Compute, tables: Callable[..., Any]
) -> Iterator[Hypothesis]:
    rope, positions = spec.rope, np.arange(len(cos))

    def made(other: RopeSpec, at: NDArray[np.int64] = positions) -> bool:
        wanted = tables(other, at)
        return alike(cos, wanted[0], compute, 2) and alike(sin, wanted[1], compute, 2)

    if rope.type != "default":
        yield (
            f"no scaling: RoPE's {rope.type} scaling is missing from the tables",
            partial(made, RopeSpec(theta=rope.theta)),
        )
    for theta in thetas_of(cos, sin, spec):
        for scaled in (rope, RopeSpec()):
            yield (
                f"another theta: RoPE's tables are of theta {theta:g}, and the model's is "
                f"{rope.theta:g}",
                partial(_made_of, made, scaled, theta),
            )
    if rope.type != "default":
        for factor in _factor_of(cos, sin, rope, spec):
            yield (
                f"another factor: RoPE's tables are scaled by {factor:g}, and the model's by "
                f"{rope.factor:g}",
                partial(_scaled_by, made, rope, factor),
            )
        yield (
            "linear scaling: RoPE's tables are scaled linearly, and the model's by the rule of "
            f"{rope.type}",
            lambda: made(RopeSpec(theta=rope.theta, type="linear", factor=rope.factor)),
        )
    for shift, words in ((1, "late"), (-1, "early")):
        yield (
            f"positions off by one: RoPE's tables begin one position {words}",
            partial(made, rope, positions + shift),
        )
    yield (
        "exchanged tables: cosines and sines stand in one another's place",
        lambda: _swapped(cos, sin, tables(rope, positions), compute),
    )


def _made_of(made: Callable[..., bool], rope: RopeSpec, theta: float) -> bool:
    return made(replace(rope, theta=theta))


def _scaled_by(made: Callable[..., bool], rope: RopeSpec, factor: float) -> bool:
    return made(replace(rope, factor=factor))


def _swapped(cos: Array, sin: Array, wanted: Any, compute: Compute) -> bool:
    return alike(cos, wanted[1], compute, 2) and alike(sin, wanted[0], compute, 2)


def thetas_of(cos: Array, sin: Array, spec: LlamaSpec) -> list[float]:
    """Thetas whose second pair turns as the tables' does, scaling aside: round numbers near it.

    The angle of position 1 is followed to positions twice as far, each of which halves its error.
    Rows are positions from 0 on.
    """
    turned = _turned(cos, sin, 1)
    if not 0 < turned < np.pi:
        return []
    plain = float(inverse_frequencies(spec.rope, spec.rotated)[1])
    unscaled = spec.rope.theta ** (-2 / spec.rotated)
    with np.errstate(all="ignore"):
        theta = float((turned * unscaled / plain) ** (-spec.rotated / 2))
    if not 1 <= theta < np.inf:
        return []
    places = int(np.floor(np.log10(theta)))
    near = [max(1.0, round(theta, digits - places)) for digits in range(8)]
    return list(dict.fromkeys([*near, theta]))


def _turned(cos: Array, sin: Array, pair: int) -> float:
    """Radians a position by which a pair is turned; 0 where it cannot be told."""
    if len(cos) < 2 or cos.shape[1] <= pair:
        return 0.0
    with np.errstate(all="ignore"):
        angles = np.arctan2(sin[:, pair].astype(np.float64), cos[:, pair].astype(np.float64))
    if not np.isfinite(angles[1:]).all():
        return 0.0
    each, at = float(angles[1]), 2
    while at < len(angles):
        each += float((angles[at] - at * each + np.pi) % (2 * np.pi) - np.pi) / at
        at *= 2
    return each


def _factor_of(cos: Array, sin: Array, rope: RopeSpec, spec: LlamaSpec) -> list[float]:
    """By how much the slowest pair is slowed, as a round number near it."""
    last = cos.shape[1] - 1
    turned = _turned(cos, sin, last)
    plain = float(rope.theta ** (-2 * last / spec.rotated))
    if not 0 < turned < np.pi:
        return []
    factor = plain / turned
    return list(dict.fromkeys([round(factor), round(factor, 1), round(factor, 2), factor]))
