"""What a cause is, and the case that a hypothesis is tried on: one op of a graph that is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llx.bench.fidelity import oracle
from llx.bench.fidelity.expected import Weights
from llx.bench.fidelity.localise import Off
from llx.bench.fidelity.oracle import Arithmetic, Expected
from llx.bench.fidelity.sites import Site
from llx.llama.spec import LlamaSpec

AGAIN = "export again with --overwrite"
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
