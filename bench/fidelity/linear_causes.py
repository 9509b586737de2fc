"""Why a linear layer is off: its bias, its parts, an input channel, another layer's weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from llx.bench.fidelity import oracle
from llx.bench.fidelity.case import Case, Hypothesis
from llx.bench.fidelity.common_causes import exchanged_heads
from llx.bench.fidelity.expected import bias_of
from llx.bench.fidelity.oracle import Expected, Wide
from llx.llama.spec import LlamaSpec

NEAR = 4  # layers before and after, whose weights may be in the place of one's own
NEAR_LAYER = f"the weight of one of {NEAR} layers before or after"


def linear(case: Case) -> Iterator[Hypothesis]:
    """What a linear layer may do otherwise: its bias, its parts, its weight."""
    site, spec, a = case.site, case.spec, case.a
    x, (wanted, allowed) = site.wide(), case.off.expected
    found = site.found.astype(np.float64)
    bias = bias_of(site, spec, case.weights)
    if bias is not None:
        size = 2 * allowed + 2 * a.unit * np.abs(bias)
        yield "no bias: its bias is missing", lambda: case.holds(Expected(wanted - bias, size))
        yield (
            "a bias twice: its bias is added twice",
            lambda: case.holds(Expected(wanted + bias, size)),
        )
        shift = (found - wanted).mean(0)
        moved = Expected(wanted + shift, 3 * size)
        alike = np.allclose(np.sort(bias + shift), np.sort(bias), rtol=1e-2, atol=1e-5)
        words = "its biases are permuted" if alike else "its bias is another one"
        yield f"another bias: {words}", lambda: len(found) > 1 and case.holds(moved)
    parts = _parts(site.module, spec)
    if site.module.endswith(".qkv"):
        yield from exchanged_heads(case, parts)
    if len(parts) == 2:
        halves = np.split(np.arange(wanted.shape[1]), 2)
        turned = np.concatenate(halves[::-1])
        yield (
            "exchanged halves: gate and up stand in one another's place",
            lambda: case.holds(Expected(wanted[:, turned], 2 * allowed[:, turned])),
        )
    for name, part in parts.items():
        yield from _scaled_part(case, name, part)
    yield from _input_channel(case, x)
    yield from _other_layers(case, x)


def _parts(module: str, spec: LlamaSpec) -> dict[str, slice]:
    """Which outputs are whose, where several projections are one."""
    names: Mapping[str, int] = {}
    if module.endswith(".qkv"):
        names = {"q": spec.q_dim, "k": spec.kv_dim, "v": spec.kv_dim}
    elif module.endswith(".gate_up"):
        names = {"gate": spec.ffn_dim, "up": spec.ffn_dim}
    parts, at = {}, 0
    for name, size in names.items():
        parts[name] = slice(at, at + size)
        at += size
    return parts


def _scaled_part(case: Case, name: str, part: slice) -> Iterator[Hypothesis]:
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    square = float(np.square(wanted[:, part]).sum())
    factor = float((found * wanted)[:, part].sum()) / square if square else 0.0
    grown = Expected(wanted.copy(), 2 * allowed)
    grown.wanted[:, part] *= factor
    grown.allowed[:, part] *= max(1.0, abs(factor))
    yield (
        f"one scale of a part: {name} is {factor:.4g} times what it should be",
        lambda: factor != 0 and case.holds(grown),
    )


def _input_channel(case: Case, x: Wide) -> Iterator[Hypothesis]:
    """One input channel that weighs otherwise: what is off is then of rank one, along it."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    off = found - wanted
    squares = np.square(x).sum(0)
    explained = np.square(x.T @ off).sum(1) / np.where(squares == 0, np.inf, squares)
    j = int(np.nan_to_num(explained).argmax())
    along = np.outer(x[:, j], x[:, j] @ off) / (squares[j] or 1.0)
    moved = Expected(wanted + along, 3 * allowed + case.a.unit * np.abs(along))
    yield (
        f"an outlier channel: its weight for input channel {j} is another one",
        lambda: len(found) > 2 and case.holds(moved),
    )


def _other_layers(case: Case, x: Wide) -> Iterator[Hypothesis]:
    site = case.site
    if site.layer is None:
        return
    own = site.module.rpartition(".")[2]
    for layer in range(site.layer - NEAR, site.layer + NEAR + 1):
        if layer in (site.layer,) or not 0 <= layer < case.spec.layers:
            continue
        module = f"layers.{layer}.{own}"

        def holds(module: str = module) -> bool:
            bias = bias_of(replace(site, module=module), case.spec, case.weights)
            return case.holds(oracle.linear(case.a, x, case.weights(f"{module}.weight"), bias))

        yield f"{NEAR_LAYER}: it uses the weight of {module}", holds
