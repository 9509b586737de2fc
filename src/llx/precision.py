"""Precision has two axes: what is computed in, and what the linear layers are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llx.errors import BadInput

Compute = Literal["fp32", "fp16", "bf16"]
Linear = Literal["dense"]

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`compute`: activations, norms, cache and embedding. `linear`: the projections' weights."""

    compute: Compute
    linear: Linear = "dense"

    @property
    def name(self) -> str:
        """The name that `--precision` knows it by."""
        return self.compute


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(compute="fp32"),
    "fp16": Precision(compute="fp16"),
    "bf16": Precision(compute="bf16"),
}


def precision_named(name: str) -> Precision:
    """The precision that `--precision NAME` means. Raises `BadInput` for an unknown name."""
    if name not in PRECISIONS:
        raise BadInput(f"unknown precision {name!r}", f"choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
