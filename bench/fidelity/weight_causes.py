"""Why a weight is not the checkpoint's: what was done to it, where doing so gives what is there.

Both are what the artifact's type makes of them, so what is right agrees in every bit, but for a
rounding to the neighbour, which another library may choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity.case import AGAIN, FEW, Cause, Hypothesis, cause_among
from llx.bench.fidelity.tolerance import LEAST, UNIT
from llx.llama.spec import LlamaSpec
from llx.precision import Compute

Array = NDArray[Any]
Others = Callable[[str], Array | None]
"""Another weight as it should be, by its name; None where there is none of that name."""


def alike(found: Array, wanted: Array, compute: Compute, times: float = 1.0) -> bool:
    """Whether values agree but for `times` two roundings."""
    if found.shape != wanted.shape:
        return False
    return not differing(found, wanted, compute, times).any()


def differing(
    found: Array, wanted: Array, compute: Compute, times: float = 1.0
) -> NDArray[np.bool_]:
    """Which values differ by more than `times` two roundings; NaN always does."""
    one, other = (x.astype(np.float32, copy=False) for x in (found, wanted))
    slack = np.abs(other) * np.float32(2 * times * UNIT[compute])
    slack += np.float32(max(times * LEAST[compute], 2.0**-149))
    with np.errstate(invalid="ignore", over="ignore"):
        right: NDArray[np.bool_] = (one == other) | (np.abs(one - other) <= slack)
    return ~right


def cause_of_weight(
    name: str, found: Array, wanted: Array, spec: LlamaSpec, compute: Compute, others: Others
) -> Cause:
    """What was done to a weight: [in, out] of a projection, [V, dim] of a table, or a vector."""
    if found.shape != wanted.shape:
        return Cause(f"its shape is {found.shape}, and the model's {wanted.shape}", AGAIN)
    return cause_among(_hypotheses(name, found, wanted, spec, compute, others))


def _hypotheses(
    name: str, found: Array, wanted: Array, spec: LlamaSpec, compute: Compute, others: Others
) -> Iterator[Hypothesis]:
    def same(one: Array, other: Array) -> bool:
        return alike(one, other, compute)

    table = name in ("embed.weight", "unembed.weight")
    if table:
        yield "a table of zeros: the table is missing: it is all zeros", lambda: not found.any()
        other = others("unembed.weight" if name == "embed.weight" else "embed.weight")
        if other is not None:
            yield (
                f"the other table: it holds the values of {_other_table(name)}: tied, or exchanged",
                lambda: same(found, other),
            )
    yield "zeros: it is all zeros", lambda: not found.any()
    yield from _projection(name, found, wanted, spec, same)
    yield from _scales(found, wanted, compute)
    yield from _other_layers(name, found, spec, same, others)
    yield (
        "transposed: it is transposed",
        lambda: found.ndim == 2 and same(found, wanted.T),
    )
    yield "permuted: its values are in another order", lambda: _permuted(found, wanted, compute)
    bad = differing(found, wanted, compute)
    count = int(bad.sum())
    yield (
        f"a few values: {count} of its {bad.size} values {'differs' if count == 1 else 'differ'}",
        lambda: count <= max(1, bad.size // 100),
    )


def _other_table(name: str) -> str:
    return "unembed.weight" if name == "embed.weight" else "embed.weight"


def _projection(
    name: str, found: Array, wanted: Array, spec: LlamaSpec, same: Callable[[Array, Array], bool]
) -> Iterator[Hypothesis]:
    """Of what lies along the outputs, the last axis of weights and biases alike."""
    kind = name.rpartition(".")[2]
    what = "biases" if kind == "bias" else "heads"
    if ".gate_up." in name:
        gate, up = np.split(wanted, 2, -1)
        swapped = np.concatenate((up, gate), -1)
        yield (
            "exchanged halves: gate and up stand in one another's place",
            lambda: same(found, swapped),
        )
    if ".qkv." not in name:
        return
    ends = (spec.q_dim, spec.q_dim + spec.kv_dim)
    here, there = np.split(found, ends, -1), np.split(wanted, ends, -1)
    yield (
        "exchanged parts: k and v stand in one another's place",
        lambda: same(found, np.concatenate((there[0], there[2], there[1]), -1)),
    )
    off = [i for i in range(3) if not same(here[i], there[i])]
    which = " and ".join("qkv"[i] for i in off)
    yield (
        f"permuted heads: the {what} of {which} are in another order{_of_heads(what)}",
        lambda: all(_heads_permuted(here[i], there[i], spec.head_dim, same) for i in off),
    )
    order = np.arange(spec.head_dim).reshape(2, -1).T.ravel()

    def turned(turn: NDArray[np.intp]) -> Callable[[], bool]:
        return lambda: (
            2 not in off and all(same(here[i], _within_heads(there[i], turn)) for i in off)
        )

    are = "is" if len(off) == 1 else "are"
    for words, turn in (
        ("interleaved pairs, where the model has halves", order),
        ("halves, and were so already", np.argsort(order)),
    ):
        yield f"interleaved RoPE: {which} {are} permuted for RoPE of {words}", turned(turn)


def _of_heads(what: str) -> str:
    return " of heads" if what == "biases" else ""


def _within_heads(part: Array, order: NDArray[np.intp]) -> Array:
    heads = part.reshape(*part.shape[:-1], -1, len(order))
    return heads[..., order].reshape(part.shape)


def _heads_permuted(
    found: Array, wanted: Array, size: int, same: Callable[[Array, Array], bool]
) -> bool:
    starts = range(0, found.shape[-1], size)
    fits = []
    for at in starts:
        here = found[..., at : at + size]
        fits.append(next((o for o in starts if same(here, wanted[..., o : o + size])), None))
    return None not in fits and fits != list(starts) and len(set(fits)) == len(fits)


def _scales(found: Array, wanted: Array, compute: Compute) -> Iterator[Hypothesis]:
    """One factor for all, or for some channels along either axis."""
    factor = _factor(found, wanted)

    def scaled(by: Any) -> bool:
        times = 2 + 2 * float(np.max(np.abs(by)))
        wide = wanted.astype(np.float64) * by
        return bool(np.isfinite(wide).all()) and alike(found, wide, compute, times)

    def several(axis: int, by: Array) -> Callable[[], bool]:
        enough = found.shape[axis] > 1 and found.size > found.shape[axis]
        return lambda: enough and scaled(by)

    yield (
        f"one scale: all of it is {factor:.4g} times the checkpoint's",
        lambda: factor != 0 and scaled(factor),
    )
    yield (
        "one added: it is the checkpoint's and one",
        lambda: alike(found, wanted.astype(np.float64) + 1, compute, 8),
    )
    for axis in range(found.ndim)[::-1]:
        across = tuple(i for i in range(found.ndim) if i != axis)
        bad = np.flatnonzero(differing(found, wanted, compute).any(across))
        if not 0 < len(bad) <= max(1, found.shape[axis] // 4):
            continue
        by = np.ones(found.shape[axis])
        for channel in bad:
            by[channel] = _factor(found.take(channel, axis), wanted.take(channel, axis))
        shape = [1] * found.ndim
        shape[axis] = -1
        sides = "output" if axis == found.ndim - 1 else "input"
        sizes = np.abs(by[bad])
        least, most = f"{sizes.min():.4g}", f"{sizes.max():.4g}"
        of = least if least == most else f"{least} to {most}"
        listed = ", ".join(map(str, bad[:FEW])) + (" …" if len(bad) > FEW else "")
        many = "s" if len(bad) > 1 else ""
        yield (
            f"an outlier channel: {sides} channel{many} {listed} of it "
            f"{'are' if many else 'is'} {of} times the checkpoint's, the others are right",
            several(axis, by.reshape(shape)),
        )


def _factor(found: Array, wanted: Array) -> float:
    one, other = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    square = float(other @ other)
    return float(one @ other) / square if square else 0.0


def _other_layers(
    name: str, found: Array, spec: LlamaSpec, same: Callable[[Array, Array], bool], others: Others
) -> Iterator[Hypothesis]:
    parts = name.split(".")
    names = [
        f"layers.{i}.{n}.weight" for i in range(spec.layers) for n in ("attn_norm", "mlp_norm")
    ]
    names.append("norm.weight")
    if parts[0] == "layers" and "norm" not in name:
        names = [".".join((parts[0], str(i), *parts[2:])) for i in range(spec.layers)]
    if "norm" not in name and parts[0] != "layers":
        return

    def which() -> str | None:
        for other in names:
            values = others(other) if other != name else None
            if values is not None and same(found, values):
                return other
        return None

    hit = which()
    yield f"another layer's weight: it holds the values of {hit}", lambda: hit is not None


def _permuted(found: Array, wanted: Array, compute: Compute) -> bool:
    """Whether both hold the same values: a permutation along any axis, or of all."""
    one, other = (np.sort(x.astype(np.float32), axis=None) for x in (found, wanted))
    return alike(one, other, compute)
