"""Why an op that sees each token by itself is off: RMSNorm, a sum, SiLU, a vocabulary's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llx.bench.fidelity import oracle
from llx.bench.fidelity.case import OVERFLOW, Case, Hypothesis
from llx.bench.fidelity.oracle import Wide
from llx.graphs.settings import same

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 0.0)


def norm(case: Case) -> Iterator[Hypothesis]:
    """What an RMSNorm may do otherwise: its epsilon, its statistics, its weight."""
    site, spec, a = case.site, case.spec, case.a
    x, weight = site.wide(), case.weights(f"{site.module}.weight").astype(np.float64)

    def with_epsilon(eps: float) -> Callable[[], bool]:
        return lambda: case.holds(oracle.rms_norm(a, x, weight, eps))

    def with_weight_of(name: str) -> Callable[[], bool]:
        def holds() -> bool:
            other = case.weights(name).astype(np.float64)
            return case.holds(oracle.rms_norm(a, x, other, spec.norm_eps))

        return holds

    for eps in _epsilons(case, x, weight):
        if not same(eps, spec.norm_eps):
            yield (
                f"another epsilon: its epsilon is {eps:g}, and the model's {spec.norm_eps:g}",
                with_epsilon(float(eps)),
            )
    if a.compute == "fp16":
        yield (
            f"{OVERFLOW}: the squares of its inputs, up to {np.abs(x).max():.3g}, overflow: "
            "its statistics are in fp16, not in fp32",
            lambda: _squares_overflow(case, x, weight),
        )
    centred = x - x.mean(-1, keepdims=True)
    yield (
        "a mean subtracted: it subtracts the mean, as LayerNorm does",
        lambda: case.holds(oracle.rms_norm(a, centred, weight, spec.norm_eps)),
    )
    yield (
        "no weight: its weight is missing",
        lambda: case.holds(oracle.rms_norm(a, x, np.ones_like(weight), spec.norm_eps)),
    )
    yield (
        "one added to its weight: one is added to its weight",
        lambda: case.holds(oracle.rms_norm(a, x, 1 + weight, spec.norm_eps)),
    )
    others = ["norm.weight"]
    others += [
        f"layers.{i}.{n}.weight" for i in range(spec.layers) for n in ("attn_norm", "mlp_norm")
    ]
    for name in others:
        if name != f"{site.module}.weight":
            yield f"another norm's weight: it uses {name}", with_weight_of(name)


def _epsilons(case: Case, x: Wide, weight: Wide) -> list[Any]:
    """The epsilon of the graph; where none can be read, that which the values say, and usual ones.

    Of a row that is s·x·weight, ε = s⁻² - mean(x²): a row counts the more the smaller it is.
    """
    read = case.setting("epsilon")
    if read is not None:
        return [read]
    full = x * weight
    square = np.square(full).sum(-1)
    with np.errstate(all="ignore"):
        scales = (case.site.found.astype(np.float64) * full).sum(-1) / square
        sizes = scales**-2
        counts = np.where(np.isfinite(sizes) & (scales > 0), sizes**-2, 0.0)
        off = np.where(counts > 0, sizes - np.square(x).mean(-1), 0.0)
        solved = float((counts * off).sum() / counts.sum())
    usual = [eps for eps in EPSILONS if eps != case.spec.norm_eps]
    return [*usual, solved] if np.isfinite(solved) and solved > 0 else usual


def _squares_overflow(case: Case, x: Wide, weight: Wide) -> bool:
    """Whether exactly the rows are off in which a square, or the sum of squares, leaves fp16."""
    most = 65504.0
    over = (np.square(x).max(-1) > most) | (np.square(x).sum(-1) > most)
    right = oracle.rms_norm(case.a, x, weight, case.spec.norm_eps)
    bad = (oracle.beyond(case.site.found, right) > 1).any(-1)
    found = case.site.found.astype(np.float64)
    gone = ~np.isfinite(found[bad]).all(-1) | ~found[bad].any(-1)
    return bool(bad.any()) and bool(over[bad].all()) and bool(gone.all())


def add(case: Case) -> Iterator[Hypothesis]:
    """What a sum of residual and branch may hold instead."""
    one, other = case.site.wide(0), case.site.wide(1)
    slack = case.a.given * (np.abs(one) + np.abs(other))
    yield (
        "no residual: the residual is left out of the sum",
        lambda: case.holds(case.a.bound(slack, other)),
    )
    yield (
        "no branch: the sum holds the residual alone",
        lambda: case.holds(case.a.bound(slack, one)),
    )
    yield (
        "a branch twice: the sum holds the branch twice, and no residual",
        lambda: case.holds(case.a.bound(slack, 2 * other)),
    )
    yield "a difference: it subtracts", lambda: case.holds(case.a.bound(slack, one - other))


def silu(case: Case) -> Iterator[Hypothesis]:
    """What may stand in the place of SiLU of the gate."""
    gate, up = case.site.wide(0), case.site.wide(1)
    yield (
        "exchanged halves: SiLU is of up, where the model has it of gate",
        lambda: case.holds(oracle.silu(case.a, up)),
    )
    yield "no activation: it hands its input on", lambda: case.holds(oracle.exact(gate))
    cubic = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
    gelu = case.a.bound(
        1e-3 * np.abs(gate) + 4 * case.a.given * np.abs(gate), gate * (1 + cubic) / 2
    )
    yield "GELU: its activation is GELU", lambda: case.holds(gelu)


def table(case: Case) -> Iterator[Hypothesis]:
    """The other of the two tables of a vocabulary, where they are not tied."""
    site, spec = case.site, case.spec
    if spec.tied:
        return
    other = "embed" if site.kind == "unembed" else "unembed"

    def holds() -> bool:
        table = case.weights(f"{other}.weight")
        if site.kind == "embedding":
            return case.holds(oracle.exact(table[site.inputs[0]]))
        return case.holds(oracle.linear(case.a, site.wide(), table.T))

    yield f"the other table: it uses {other}.weight, as if the tables were tied", holds
