"""Precision has two axes: what is computed in, and what the linear layers are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llx.errors import BadInput

Compute = Literal["fp32", "fp16", "bf16"]
Linear = Literal["dense", "int8", "int8-wo", "int4"]

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`compute`: activations, norms, cache and embedding. `linear`: the projections' weights.

    `int8`: weights and activations of the projections in 8 bits. `int8-wo` and `int4`: weights
    alone in 8 or 4 bits, multiplied in `compute`.
    """

    compute: Compute
    linear: Linear = "dense"

    @property
    def name(self) -> str:
        """The name that `--precision` knows it by."""
        return self.compute if self.linear == "dense" else self.linear


# What this version exports.
PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(compute="fp32"),
    "fp16": Precision(compute="fp16"),
    "bf16": Precision(compute="bf16"),
    "int8": Precision(compute="fp16", linear="int8"),
}
# What `llx plan` can say something about: sizes are known before an export exists.
PREDICTED: dict[str, Precision] = {
    **PRECISIONS,
    "int8-wo": Precision(compute="fp16", linear="int8-wo"),
    "int4": Precision(compute="fp16", linear="int4"),
}


def precision_named(name: str) -> Precision:
    """The precision that `--precision NAME` means. Raises `BadInput` for an unknown name."""
    name = name.lower()
    if name not in PRECISIONS:
        raise BadInput(f"unknown precision {name!r}", f"choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def predicted_precision(name: str) -> Precision:
    """As `precision_named`, but of those that can be predicted, exportable or not yet."""
    if name not in PREDICTED:
        raise BadInput(f"unknown precision {name!r}", f"choose one of {', '.join(PREDICTED)}")
    return PREDICTED[name]
