"""`Plans` (`llx.plan/1`): what a model would need of devices, and how fast it could be there.

A prediction from sizes and specifications: nothing was measured. Units are in the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llx.devices import Device
from llx.llama.spec import LlamaSpec

Bound = Literal["memory", "compute"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is asked of a model: cache capacity, tokens of the largest step, rows, prompt length."""

    capacity: int
    max_new_tokens: int
    rows: int
    prompt: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of device memory. `needed_bytes` is the sum of the three before it."""

    weights_bytes: int  # with the RoPE tables
    cache_bytes: int
    activation_bytes: int
    needed_bytes: int
    device_bytes: int
    reserved_bytes: int
    left_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A decode step of all rows, or a whole prefill of them.

    The times are those at 100 % of the specification; `compute_ms` is None where the device's rate
    is unknown. `bound` is the longer of the two. The realistic speed takes the plan's
    shares of the specification, and in decode the whole cache, which an engine reads.
    """

    tokens: int
    read_bytes: int
    flops: int
    memory_ms: float
    compute_ms: float | None
    bound: Bound | None
    tok_per_s_at_spec: float | None
    tok_per_s_realistic: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The prediction for one device. `lacks`: the precision that its chip cannot compute in."""

    device: Device
    memory: Memory
    decode: Phase
    prefill: Phase
    lacks: str | None
    best_precision: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes that an export writes, as the sizes say, and those free in the current folder."""

    needed_bytes: int
    free_bytes: int
    enough: bool


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is known of building an engine: most bytes that it takes on disk, least of memory.

    The disk's are beside the artifact. How long it takes is not predicted.
    """

    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plans:
    """All that `llx plan` says, as `-o json` writes it."""

    schema: Literal["llx.plan/1"] = "llx.plan/1"
    kind: Literal["prediction"] = "prediction"
    command: str
    model: str
    spec: LlamaSpec
    parameters: int
    precision: str
    sizes: Sizes
    disk: Disk
    build: Build | None = None  # which those of llx 0.1.0 lack
    bandwidth_share: float
    compute_share: float
    sources: dict[str, str]
    plans: tuple[Plan, ...]

    def __repr__(self) -> str:
        """What was predicted, in a line."""
        fit = sum(plan.memory.fits for plan in self.plans)
        return (
            f"<llx.Plans: {self.model}, {self.precision}: {len(self.plans)} devices, {fit} of "
            "which it fits>"
        )
