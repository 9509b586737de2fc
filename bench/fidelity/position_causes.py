"""Why an op that depends on positions is off: RoPE, attention, the KV cache, the picked logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.case import Case, Hypothesis
from llx.bench.fidelity.common_causes import exchanged_heads
from llx.bench.fidelity.expected import rounded, seen_by, tables
from llx.bench.fidelity.oracle import Expected, Wide
from llx.bench.fidelity.rope_table_causes import thetas_of
from llx.graphs.settings import same
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec, RopeSpec

SCALE = "another scale of scores"


def rope(case: Case) -> Iterator[Hypothesis]:
    """What RoPE of q or k may do otherwise: its pairs, its angles, its heads."""
    site, spec, a = case.site, case.spec, case.a
    x, positions = site.wide(), site.step.positions
    cos, sin = tables(spec, a, positions)
    size = spec.head_dim
    order = np.append(_pairs(spec.rotated), np.arange(spec.rotated, size))
    turn, back = order, np.argsort(order)

    def by_heads(flat: Wide, order: NDArray[np.intp]) -> Wide:
        return oracle.flat_of(oracle.heads_of(flat, spec.head_dim)[..., order])

    def interleaved() -> Expected:
        inner = oracle.rope(a, by_heads(x, back), cos, sin, size)
        return Expected(by_heads(inner.wanted, turn), by_heads(inner.allowed, turn))

    def with_rope(rope: RopeSpec, at: NDArray[np.int64] = positions) -> Callable[[], bool]:
        def holds() -> bool:
            c, s = (rounded(t, a) for t in rope_tables(rope, spec.rotated, np.maximum(at, 0)))
            return case.holds(oracle.rope(a, x, c, s, size))

        return holds

    yield (
        "interleaved pairs: RoPE turns interleaved pairs, where the model turns halves",
        lambda: case.holds(interleaved()),
    )
    yield "no rotation: nothing is rotated", lambda: case.holds(oracle.exact(x))
    yield (
        "the other way: RoPE turns the other way, by a negative sine",
        lambda: case.holds(oracle.rope(a, x, cos, -sin, size)),
    )
    for theta in thetas_of(*_turned_by(x, site.found, spec), spec):
        if theta != spec.rope.theta:
            yield (
                f"another theta: RoPE's theta is {theta:g}, and the model's {spec.rope.theta:g}",
                with_rope(replace(spec.rope, theta=theta)),
            )
    if spec.rope.type != "default":
        yield (
            f"no scaling: RoPE's {spec.rope.type} scaling is missing",
            with_rope(RopeSpec(theta=spec.rope.theta)),
        )
    for shift, words in ((-1, "one position early"), (1, "one position late")):
        yield (
            f"positions off by one: RoPE turns {words}",
            with_rope(spec.rope, positions + shift),
        )
    yield (
        "positions from zero: RoPE counts each step's positions from 0",
        with_rope(spec.rope, positions - positions[0]),
    )
    heads = {site.details["part"]: slice(0, x.shape[1])}
    yield from exchanged_heads(case, heads)


def _turned_by(x: Wide, found: NDArray[Any], spec: LlamaSpec) -> tuple[Wide, Wide]:
    """Cosines and sines [T, R/2] by which the heads were turned: least squares over the heads."""

    def halves(flat: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(oracle.heads_of(flat, spec.head_dim)[..., : spec.rotated], 2, -1)

    one, other = halves(x)
    first, second = halves(found.astype(np.float64))
    with np.errstate(all="ignore"):
        sizes = (np.square(one) + np.square(other)).sum(0)
        cos = (first * one + second * other).sum(0) / sizes
        sin = (second * one - first * other).sum(0) / sizes
    return cos, sin


def _pairs(head_dim: int) -> NDArray[np.intp]:
    """Where each channel of halves lies among interleaved pairs: gather by it to interleave."""
    order: NDArray[np.intp] = np.arange(head_dim).reshape(2, -1).T.ravel()
    return order


def attention(case: Case) -> Iterator[Hypothesis]:
    """What attention may do otherwise: its mask, its KV heads, its scores."""
    site, spec = case.site, case.spec
    q, positions, filled = site.wide(), site.step.positions, site.inputs[1].shape[1]
    right = seen_by(site, spec, filled)
    yield from _masks(case, right)
    window, read = spec.kind_of(site.layer or 0).window, case.setting("local_window_size")
    if window is not None:
        yield (
            "no window: all that went before is seen, and the model's window is not kept to",
            lambda: _seeing(case, oracle.causal(positions, filled)),
        )
    if read not in (None, -1, window):
        yield (
            f"another window: its window is {read}, and the model's {window or 'has none'}",
            lambda: _seeing(case, oracle.causal(positions, filled, window=read)),
        )
    if 1 < spec.kv_heads < spec.heads:
        yield (
            "other KV heads: query head h reads KV head h mod Hkv, and not h // (H/Hkv)",
            lambda: case.holds(
                oracle.attention(
                    *(case.a, q, site.wide(1), site.wide(2), right),
                    lambda head: head % spec.kv_heads,
                    spec.score_scale,
                )
            ),
        )
    yield from _scores(case, right)
    if case.setting("is_causal"):
        within = np.arange(filled) <= np.arange(len(positions))[:, None]
        yield (
            "a mask of its own: is_causal masks by the place in the step, not by position",
            lambda: _seeing(case, right & within),
        )
    yield from exchanged_heads(case, {"the queries": slice(0, q.shape[1])})


def _seeing(case: Case, seen: NDArray[np.bool_], cache: Any = None) -> bool:
    """Whether it is what a mask gives, aside from queries that see nothing."""
    return case.holds(_attended(case, seen, cache), seen.any(-1))


def _attended(
    case: Case,
    seen: NDArray[np.bool_],
    cache: Any = None,
    scale: float | None = None,
    cap: float = 0.0,
) -> Expected:
    """Attention by the model's own heads, over another cache or with other scores perhaps."""
    site, groups = case.site, case.spec.heads // case.spec.kv_heads
    keys, values = cache or (site.wide(1), site.wide(2))
    scale = case.spec.score_scale if scale is None else scale
    return oracle.attention(
        case.a, site.wide(), keys, values, seen, lambda head: head // groups, scale, cap
    )


def _masks(case: Case, right: NDArray[np.bool_]) -> Iterator[Hypothesis]:
    """Masks that show too much or too little; `right` [T, P] is what a query should see."""
    positions, filled = case.site.step.positions, right.shape[1]
    ahead = case.site.details.get("ahead")
    past = np.arange(filled) < positions[0]

    def without_first(count: int) -> Callable[[], bool]:
        return lambda: _seeing(case, right & (np.arange(filled) >= count))

    yield (
        "a mask one short: the mask ends one position early",
        lambda: _seeing(case, seen_by(case.site, case.spec, filled, -1)),
    )
    yield (
        "a mask one further: the mask ends one position late, and shows the next token",
        lambda: _seeing(
            *(case, seen_by(case.site, case.spec, ahead[0].shape[1] if ahead else filled, 1)),
            ahead,
        ),
    )
    yield (
        "no mask: nothing is masked, and later tokens are seen",
        lambda: _seeing(case, np.ones_like(right)),
    )
    yield (
        "the past masked: what stood in the cache before the step is not seen",
        lambda: _seeing(case, right & ~past),
    )
    yield (
        "the step masked: the step's own tokens are not seen",
        lambda: _seeing(case, right & past),
    )
    for first in range(1, filled):
        yield (
            f"the first masked: the first {first} positions are not seen",
            without_first(first),
        )


def _scores(case: Case, right: NDArray[np.bool_]) -> Iterator[Hypothesis]:
    """Scores of another scale, or capped."""
    head_dim, cap = case.spec.head_dim, case.setting("softcap")

    def scaled_by(scale: float) -> Callable[[], bool]:
        return lambda: case.holds(_attended(case, right, scale=scale))

    usual = case.spec.attention_scale is None
    known = {1.0: "not scaled", 1 / head_dim: "scaled by 1/D, not 1/√D"} if usual else {}
    for scale in _scales(case):
        words = known.get(
            scale, f"scaled by {scale:g}, and the model's by {case.spec.score_scale:g}"
        )
        yield f"{SCALE}: scores are {words}", scaled_by(scale)
    if cap:
        yield (
            f"capped scores: scores are capped at {cap:g}, and the model's are not",
            lambda: case.holds(_attended(case, right, cap=float(cap))),
        )


def _scales(case: Case) -> list[float]:
    """The scale of the graph; where none can be read, usual mistakes."""
    right, read = case.spec.score_scale, case.setting("scale")
    if read is not None:
        return [] if same(read, right) else [float(read)]
    size, usual = case.spec.head_dim, case.spec.attention_scale is None
    if case.settings:  # an Attention that leaves it out
        return [] if usual else [size**-0.5]
    return [1.0, 1 / size] if usual else [1.0, size**-0.5]


def kv_update(case: Case) -> Iterator[Hypothesis]:
    """What the cache of keys or values may hold instead: other heads, another slot, nothing new."""
    site, spec = case.site, case.spec
    new, past = site.inputs
    found, start, count = site.found, int(site.step.positions[0]), len(site.step.positions)
    heads = oracle.heads_of(new, spec.head_dim)
    part = site.details["part"]

    def written(at: int) -> bool:
        if site.details["delta"] or not 0 <= at <= found.shape[1] - count:
            return False
        return bool((found[:, at : at + count] == heads).all())

    def exchanged() -> bool:
        at = 0 if site.details["delta"] else start
        here = found[:, at : at + count]
        fits = [
            next((i for i, one in enumerate(heads) if (one == row).all()), None) for row in here
        ]
        return None not in fits and fits != list(range(len(fits)))

    yield f"permuted heads: the heads of the cache's {part}s are in another order", exchanged
    for at in range(found.shape[1] - count + 1):
        if at != start:
            yield (
                f"another slot: new {part}s are written from slot {at} on, not from {start}",
                partial(written, at),
            )
    yield (
        f"not written: new {part}s are not written into the cache",
        lambda: not site.details["delta"] and bool((found[:, : past.shape[1]] == past).all()),
    )


def pick(case: Case) -> Iterator[Hypothesis]:
    """Logits of a neighbour of the position that was asked for."""
    given, found = case.site.inputs[0], case.site.found

    def moved(rows: NDArray[np.intp]) -> bool:
        return len(given) > 1 and bool((given[rows] == found).all())

    for shift in (1, -1):
        rows = np.clip(np.arange(len(given)) + shift, 0, len(given) - 1)
        words = "one late" if shift > 0 else "one early"
        yield (
            f"positions off by one: logits are of the position {words}",
            partial(moved, rows),
        )
