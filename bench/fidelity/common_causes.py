"""What any op may be off by: overflow, a factor, channels or heads in one another's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.case import FEW, OVERFLOW, Case, Hypothesis
from llx.bench.fidelity.oracle import Expected


def overflow(case: Case) -> Iterator[Hypothesis]:
    """Values that fp16 cannot hold, in its weight or in what it gives."""
    wanted, compute = case.off.expected.wanted, case.a.compute
    if compute != "fp16":
        return

    def infinite_weight() -> bool:
        weight = case.weights(f"{case.site.module}.weight")
        return bool(np.isinf(weight).any())

    yield f"{OVERFLOW}: its weight holds values beyond 65504, infinite in fp16", infinite_weight
    most = float(np.abs(wanted).max(initial=0.0))
    yield (
        f"{OVERFLOW}: {compute} cannot hold it: it reaches {most:.3g}, and 65504 is the most",
        lambda: oracle.overflows(compute, wanted),
    )


def of_any(case: Case) -> Iterator[Hypothesis]:
    """A factor, exchanged channels, or a few channels of their own: of whichever op."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    square = float((wanted * wanted).sum())
    factor = float((found * wanted).sum()) / square if square else 0.0
    scaled = Expected(wanted * factor, 2 * allowed * max(1.0, abs(factor)))
    yield "nothing there: it gives zeros", lambda: not found.any()
    yield (
        f"one scale: all of it is {factor:.4g} times what it should be",
        lambda: factor != 0 and case.holds(scaled),
    )
    yield from _channels(case)
    yield "permuted channels: its channels are in another order", lambda: _permuted(case)


def _channels(case: Case) -> Iterator[Hypothesis]:
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    bad = np.flatnonzero((oracle.beyond(case.site.found, case.off.expected) > 1).any(0))
    if not 0 < len(bad) <= max(1, wanted.shape[-1] // 4):
        return
    squares = np.square(wanted[:, bad]).sum(0)
    factors = (found * wanted)[:, bad].sum(0) / np.where(squares == 0, 1, squares)
    which = _listed(bad)
    grown = Expected(wanted.copy(), 2 * allowed)
    grown.wanted[:, bad] *= factors
    grown.allowed[:, bad] *= np.maximum(1, np.abs(factors))
    sizes = f"{np.abs(factors).min():.4g}" + (
        f" to {np.abs(factors).max():.4g}" if len(bad) > 1 else ""
    )
    yield (
        f"an outlier channel: {which} of its outputs {_are(bad)} {sizes} times what "
        f"{'it' if len(bad) == 1 else 'they'} should be, the others are right",
        lambda: len(found) > 1 and case.holds(grown),
    )


def _are(bad: NDArray[np.intp]) -> str:
    return "is" if len(bad) == 1 else "are"


def _listed(bad: NDArray[np.intp]) -> str:
    if len(bad) == 1:
        return f"channel {bad[0]}"
    return f"channels {', '.join(map(str, bad))}" if len(bad) <= FEW else f"{len(bad)} channels"


def _permuted(case: Case) -> bool:
    """Whether each column is a column of what was wanted: both in the order of their values."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    if len(found) < 2:
        return False
    here, there = np.lexsort(found[::-1]), np.lexsort(wanted[::-1])
    part = Expected(wanted[:, there], 2 * allowed[:, there])
    return bool((oracle.beyond(found[:, here], part) <= 1).all())


def exchanged_heads(case: Case, names: Mapping[str, slice]) -> Iterator[Hypothesis]:
    """Heads of a part that stand in one another's place."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    size = case.spec.head_dim
    for name, part in names.items():
        heads = range(part.start, part.stop, size)

        def exchanged(heads: range = heads) -> bool:
            taken = []
            for at in heads:
                here = found[:, at : at + size]
                fits = (
                    other
                    for other in heads
                    if (
                        oracle.beyond(
                            here,
                            Expected(
                                wanted[:, other : other + size],
                                2 * allowed[:, other : other + size],
                            ),
                        )
                        <= 1
                    ).all()
                )
                taken.append(next(fits, None))
            return None not in taken and taken != list(heads)

        yield f"permuted heads: the heads of {name} are in another order", exchanged
