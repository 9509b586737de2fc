"""The semantic ops in float64, each with what its type explains: an error bound for every value.

An op is given the very inputs that a graph gave it, so nothing that went before is in the bound.
Letters: T new tokens, P filled positions, S capacity, H and Hkv heads, D head size. Rows B are one
and left out. `u` is the unit roundoff of what the graph computes in, and comes from `tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity.tolerance import (
    FUNCTION_UNITS,
    LAMBDA,
    LEAST,
    MOST,
    UNIT,
    accumulator,
    gamma,
)
from llx.precision import Compute

Wide = NDArray[np.float64]
COLUMN_VALUES = 1 << 22  # of a weight that are in float64 at once


class Expected(NamedTuple):
    """What an op should have given, and how far a right kernel may be from it: of one shape."""

    wanted: Wide
    allowed: Wide


class Arithmetic(NamedTuple):
    """What a graph computes in: `unit` rounds every value, `sums` what products are summed in.

    `given`: by how much what an op computed with may differ from what is seen of its inputs. A
    runtime may keep halves in fp32 from one op to the next, and round only what is stored: ONNX
    Runtime does on x86.
    """

    compute: Compute
    unit: float
    sums: float
    given: float
    stored: Compute  # what the weights and tables are in, where that is less

    @classmethod
    def of(cls, compute: Compute, stored: Compute | None = None) -> Arithmetic:
        """That of kernels on this machine's CPU. `stored`: None where it is what is computed in."""
        unit = UNIT[compute]
        given = 0.0 if compute == "fp32" else unit
        return cls(compute, unit, accumulator(compute), given, stored or compute)

    def bound(self, allowed: Wide, wanted: Wide) -> Expected:
        """With what storing the result costs: it is rounded once, and may underflow."""
        stored = self.unit * np.abs(wanted) + LEAST[self.compute]
        return Expected(wanted, allowed + stored)


def exact(wanted: NDArray[Any]) -> Expected:
    """What is only moved."""
    wide = wanted.astype(np.float64)
    return Expected(wide, np.zeros_like(wide))


def rms_norm(a: Arithmetic, x: Wide, weight: Wide, eps: float) -> Expected:
    """X [T, dim] → [T, dim]. The mean of squares is of positive terms, so its error is relative.

    Its root halves that; then root, quotient and two products round, and the normalised value is
    stored before it is multiplied (the ops' own definition), or is not.
    """
    statistics = UNIT["fp32"]
    scale = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    wanted = x * scale * weight
    relative = gamma(x.shape[-1], statistics) / 2 + 5 * statistics + a.unit + 2 * a.given
    small = LEAST[a.compute] * np.abs(weight)
    return a.bound(relative * np.abs(wanted) + small, wanted)


def linear(a: Arithmetic, x: Wide, weight: NDArray[Any], bias: Wide | None = None) -> Expected:
    """X [T, in] times weight [in, out] → [T, out]: |error| ≤ γ_n·(|x|·|w|) (ASNA, section 3.5).

    What inputs may be off by adds up as independent errors do. The weight passes in blocks of
    columns: it is never in float64 as a whole. Bounds need no more than float32.
    """
    wanted, allowed = np.empty((len(x), weight.shape[1])), np.empty((len(x), weight.shape[1]))
    share = gamma(x.shape[-1], a.sums)
    sizes = np.abs(x).astype(np.float32)
    for columns in _columns(weight.shape):
        part = weight[:, columns].astype(np.float32)
        wanted[:, columns] = x @ part.astype(np.float64)
        np.abs(part, out=part)
        magnitudes = sizes @ part
        allowed[:, columns] = share * magnitudes
        if a.given:
            spread = np.sqrt(np.square(sizes) @ np.square(part, out=part))
            allowed[:, columns] += a.given * np.minimum(LAMBDA * spread, magnitudes)
    allowed += x.shape[-1] * LEAST[a.compute] * a.sums
    if bias is not None:
        allowed += a.unit * np.abs(wanted)  # the product is stored before the bias is added
        wanted += bias
    return a.bound(allowed, wanted)


def _columns(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, COLUMN_VALUES // shape[0])
    return (slice(at, at + step) for at in range(0, shape[1], step))


def heads_of(flat: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """[T, heads·D] → [heads, T, D]."""
    heads: NDArray[Any] = flat.reshape(len(flat), -1, head_dim).transpose(1, 0, 2)
    return heads


def flat_of(heads: NDArray[Any]) -> NDArray[Any]:
    """[heads, T, D] → [T, heads·D]."""
    flat: NDArray[Any] = heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)
    return flat


def rope(a: Arithmetic, x: Wide, cos: Wide, sin: Wide, head_dim: int | None = None) -> Expected:
    """X [T, heads·D], cosines and sines [T, R/2] → [T, heads·D]: two products and a sum, rounded.

    The first R values of a head are turned, the others kept; D is R where it is not given.

    A cosine's own rounding is in it too: tables of another library may round to its neighbour.
    """
    first, second, kept = _halves(x, cos, head_dim)
    c, s = np.abs(cos), np.abs(sin)
    one, two = np.abs(first), np.abs(second)
    sizes = np.concatenate((one * c + two * s, two * c + one * s, 0 * kept), -1)
    return a.bound(flat_of((4 * a.unit + 2 * a.given) * sizes), turned(x, cos, sin, head_dim))


def _halves(x: Wide, cos: Wide, head_dim: int | None) -> tuple[Wide, Wide, Wide]:
    """Both halves of what RoPE turns of each head, [heads, T, R/2], and what it keeps."""
    half = cos.shape[-1]
    heads = heads_of(x, head_dim or 2 * half)
    return heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]


def turned(x: Wide, cos: Wide, sin: Wide, head_dim: int | None = None) -> Wide:
    """X [T, heads·D] turned by the angles of cosines and sines [T, R/2]: halves are pairs."""
    first, second, kept = _halves(x, cos, head_dim)
    rotated = np.concatenate((first * cos - second * sin, second * cos + first * sin, kept), -1)
    wide: Wide = flat_of(rotated)
    return wide


def attention(
    a: Arithmetic,
    q: Wide,
    k: Wide,
    v: Wide,
    seen: NDArray[np.bool_],
    kv_head_of: Callable[[int], int],
    scale: float | None = None,
    cap: float = 0.0,
) -> Expected:
    """Q [T, H·D], k and v [Hkv, P, D], seen [T, P] → [T, H·D]. `cap`: c·tanh(score / c), if any.

    A score's error is that of a product of D terms, of a query that may be scaled and stored first,
    and of storing it. Softmax turns an error d of scores into a relative one of weights of at most
    exp(2d) - 1 (ASNA, section 10.8 has the same argument for a logarithm's sum).
    """
    head_dim = k.shape[-1]
    scale = head_dim**-0.5 if scale is None else scale
    queries = heads_of(q, head_dim)
    wanted, allowed = np.empty_like(queries), np.empty_like(queries)
    for head, rows in enumerate(queries):
        keys, values = k[kv_head_of(head)], v[kv_head_of(head)]
        products = rows @ keys.T * scale
        scores = np.where(seen, cap * np.tanh(products / cap) if cap else products, -np.inf)
        sizes = np.abs(rows) @ np.abs(keys).T * scale
        spread = np.sqrt(np.square(rows) @ np.square(keys).T) * scale
        off = gamma(head_dim, a.sums) * sizes + 3 * a.unit * np.abs(scores)
        off += 2 * (a.unit + a.given) * np.minimum(LAMBDA * spread, sizes)
        worst = np.where(seen, off, 0.0).max(-1, keepdims=True)
        most = scores.max(-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(most), most, 0.0))
        weights /= np.maximum(weights.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
        relative = np.expm1(np.minimum(2 * worst, 1.0))
        relative += 2 * gamma(keys.shape[0], a.sums) + FUNCTION_UNITS * UNIT["fp32"]
        relative += 2 * a.unit + a.given
        wanted[head] = weights @ values
        allowed[head] = relative * (weights @ np.abs(values))
        allowed[head] += LEAST[a.compute] * np.abs(values).sum(0)
    return a.bound(flat_of(allowed), flat_of(wanted))


def causal(
    positions: NDArray[np.int64], filled: int, further: int = 0, window: int | None = None
) -> NDArray[np.bool_]:
    """A query sees the slots up to its own position, and `further` ones: [T, P].

    `window`: the last so many alone, its own among them.
    """
    slots, own = np.arange(filled), positions[:, None]
    seen: NDArray[np.bool_] = slots <= own + further
    return seen if window is None else seen & (slots > own - window)


def silu(a: Arithmetic, x: Wide) -> Expected:
    """x·σ(x). A kernel's σ is right to some units in the last place of one, of the type or fp32."""
    wanted = x / (1 + np.exp(-np.clip(x, -700, 700)))
    own = (FUNCTION_UNITS * UNIT["fp32"] + 1.1 * a.given) * np.abs(x)  # the slope is at most 1.1
    return a.bound(own + 2 * a.unit * np.abs(wanted) + LEAST[a.compute] * np.abs(x), wanted)


def add(a: Arithmetic, one: Wide, other: Wide) -> Expected:
    """One rounding."""
    return a.bound(a.given * (np.abs(one) + np.abs(other)), one + other)


def multiply(a: Arithmetic, one: Wide, other: Wide) -> Expected:
    """One rounding."""
    product = one * other
    small = LEAST[a.compute] * (np.abs(one) + np.abs(other)) if a.given else 0.0
    return a.bound(2 * a.given * np.abs(product) + small, product)


def scale(a: Arithmetic, x: Wide, factor: float) -> Expected:
    """One rounding, and that of the factor itself."""
    wanted = x * factor
    return a.bound((a.unit + a.given) * np.abs(wanted), wanted)


def beyond(found: NDArray[Any], expected: Expected) -> Wide:
    """By how much of what is allowed each value errs: above one, no rounding explains it.

    A value that the type cannot hold is right where it is infinite. NaN is right nowhere.
    """
    wide = found.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        off = np.abs(wide - expected.wanted)
        share = np.where(off == 0, 0.0, off / expected.allowed)
    return np.where(np.isfinite(wide), share, np.inf)


def overflows(compute: Compute, wanted: Wide) -> bool:
    """Whether a type cannot hold what is wanted."""
    return bool((np.abs(wanted) > MOST[compute]).any())
