"""Op by op through a graph: the first whose error exceeds what its type explains.

Every op is recomputed by `oracle` from the inputs that the graph gave it, with the weights that the
model should have, so an op answers for itself alone, however far off all before it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.expected import Weights, expected_of
from llx.bench.fidelity.oracle import Arithmetic, Expected
from llx.bench.fidelity.sites import Site, sites_of
from llx.bench.fidelity.taps import Step, Tapped, Values, hidden_after
from llx.graphs.contract import LOGITS
from llx.progress import Progress, silent


@dataclass(frozen=True)
class Off:
    """An op and by how much it errs.

    `error` and `allowed` are of the worst value, as shares of the largest that was wanted; `beyond`
    is the first by the second.
    """

    site: Site
    expected: Expected
    error: float
    allowed: float
    beyond: float
    at: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a walk through a graph saw.

    `first`: the first op beyond its bound; `nearest`: how much of its own the worst of the others
    used. `hidden` [T, dim], by layer and step, and `logits` [T, V], by step.
    """

    first: Off | None
    nearest: float
    ops: int
    hidden: dict[int, list[NDArray[Any]]]
    logits: list[NDArray[np.float32]]


def walk(
    tapped: Tapped,
    steps: Sequence[Step],
    weights: Weights,
    progress: Progress = silent,
    keep_hidden: bool = False,
) -> Found:
    """Compare every op of every layer at every step, up to the first that is beyond its bound.

    With `keep_hidden` all layers are run, for their hidden states [T, dim], even after that.
    """
    arithmetic = Arithmetic.of(tapped.contract.compute, tapped.artifact.manifest.precision.compute)
    spec = tapped.spec
    first: Off | None = None
    nearest, ops = 0.0, 0
    hidden: dict[int, list[NDArray[Any]]] = {}
    logits: list[NDArray[np.float32]] = []
    for layers, runs in tapped.runs(steps):
        if layers.start == 0:
            hidden[-1] = [values[hidden_after(-1, spec)] for values in runs]
        for layer in layers:
            hidden[layer] = [values[hidden_after(layer, spec)] for values in runs]
        if layers.stop == spec.layers:
            logits = [values[LOGITS] for values in runs]
        if first is None:
            for off in _compared(tapped, layers, steps, runs, weights, arithmetic):
                nearest, ops = max(nearest, off.beyond), ops + 1
                if not off.beyond <= 1:
                    first = off
                    break
                progress("op by op", layers.start, spec.layers, "layer")
        if first is not None and not keep_hidden:
            break
    progress("op by op", spec.layers, spec.layers, "layer")
    return Found(first, nearest, ops, hidden, logits)


def _compared(
    tapped: Tapped,
    layers: range,
    steps: Sequence[Step],
    runs: Sequence[Values],
    weights: Weights,
    a: Arithmetic,
) -> Iterator[Off]:
    for sites in sites_of(tapped, layers, steps, runs):
        try:
            with np.errstate(all="ignore"):  # what overflowed before is no news
                expected = expected_of(sites, tapped.spec, weights, a)
        except KeyError:  # in few bits: `linears` has it
            continue
        for site, wanted in zip(sites, expected, strict=True):
            yield judged(site, wanted)


def judged(site: Site, expected: Expected) -> Off:
    """An op beside what it should have given."""
    shares = oracle.beyond(site.found, expected)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape) if shares.size else ()
    if not shares.size:
        return Off(site, expected, 0.0, 0.0, 0.0, ())
    largest = float(np.abs(expected.wanted).max()) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.abs(float(site.found[at]) - expected.wanted[at]))
    return Off(
        site,
        expected,
        (error if np.isfinite(error) else np.inf) / largest,
        float(expected.allowed[at]) / largest,
        float(shares[at]),
        tuple(int(i) for i in at),
    )
