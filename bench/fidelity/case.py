"""What a cause is, and the case that a hypothesis is tried on: one op of a graph that is off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llx.bench.fidelity import oracle
from llx.bench.fidelity.expected import Weights
from llx.bench.fidelity.localise import Off
from llx.bench.fidelity.oracle import Arithmetic, Expected
from llx.bench.fidelity.sites import Site
from llx.graphs.settings import Settings
from llx.llama.spec import LlamaSpec

AGAIN = "export again with --overwrite"
IN_A_WIDER_TYPE = "export with --precision bf16 or fp32"
FEW = 8  # channels that are named one by one
OVERFLOW = "overflow"


@dataclass(frozen=True)
class Cause:
    """Why an op is off, as what follows "because", and what mends it. None: no known cause fits."""

    words: str | None
    remedy: str
    ruled_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """An op that is off, and what a hypothesis needs: the model, its weights, its arithmetic."""

    off: Off
    spec: LlamaSpec
    weights: Weights
    a: Arithmetic
    settings: Settings = field(default_factory=dict)  # what the graph says of its ops

    def setting(self, name: str) -> Any:
        """A number of the op as its graph has it; None where none can be read."""
        site = self.site
        module = site.module or f"layers.{site.layer}"
        kind = "rope_2" if site.details.get("part") == "k" else site.kind
        return self.settings.get(f"{module}/{kind}", {}).get(name)

    @property
    def site(self) -> Site:
        """The op."""
        return self.off.site

    def holds(self, expected: Expected, rows: Any = slice(None)) -> bool:
        """Whether the graph gave this, within rounding."""
        if expected.wanted.shape != self.site.found.shape:
            return False
        part = Expected(expected.wanted[rows], expected.allowed[rows])
        shares = oracle.beyond(self.site.found[rows], part)
        return bool(shares.size) and bool((shares <= 1).all())


Hypothesis = tuple[str, Callable[[], bool]]
"""A name and what is said, as `name: words`, and whether it holds."""


def cause_among(
    hypotheses: Iterable[Hypothesis], untried: tuple[type[Exception], ...] = ()
) -> Cause:
    """The first that holds; else what was ruled out. `untried`: how one says that it cannot be."""
    tried = []
    for words, holds in hypotheses:
        name, _, said = words.partition(": ")
        with np.errstate(all="ignore"):
            try:
                right = holds()
            except untried:
                continue
        if right:
            return Cause(said or name, IN_A_WIDER_TYPE if name == OVERFLOW else AGAIN)
        tried.append(name)
    return Cause(None, AGAIN, tuple(dict.fromkeys(tried)))
