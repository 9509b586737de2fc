"""What a machine is, the state that it was in while it was measured, and the energy that it took.

A device sends these as well: the standard library will do. None means that it was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOT_MEASURED = "not measured"

Span = tuple[float, float]
"""The least and the most that was seen."""


@dataclass(frozen=True, kw_only=True)
class EnergyRecord:
    """Energy of the timed windows of a test, by one source; without `joules` there is a `reason`.

    `window`: seconds, of all repetitions together. `samples`: readings that went into it.
    `coverage`: share of the window that lies between readings, 1 for a counter. `error`: the share
    by which the steps of the source may put it off, at most. `tokens`: those generated, or those of
    the prompt where the test is a prefill. `idle_watts`: of the same rail before the engine was
    loaded, to be read beside the other: nothing is subtracted.
    """

    source: str | None = None
    rail: str | None = None
    window: float | None = None
    joules: float | None = None
    tokens: int | None = None
    mj_per_token: float | None = None
    samples: int = 0
    coverage: float | None = None
    error: float | None = None
    idle_watts: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContainerRecord:
    """The limits of the control group: CPUs by quota, bytes, and the CPUs that it may run on."""

    version: str | None = None  # v1, v2
    cpus: float | None = None
    memory_bytes: int | None = None
    cpuset: str | None = None


@dataclass(frozen=True, kw_only=True)
class MachineRecord:
    """What a machine is and how it is set: the same for every run until someone changes it.

    `usable_cpus`: those that this process may run on. `boost`: clocks above the nominal one are
    allowed. `preference`: the energy-performance preference of the processor.
    """

    cpu: str
    architecture: str
    system: str
    memory_bytes: int
    cpus: int
    board: str | None = None
    cores: int | None = None
    usable_cpus: int | None = None
    smt: bool | None = None
    numa_nodes: int | None = None
    driver: str | None = None  # of the clocks, such as intel_pstate
    governor: str | None = None
    boost: bool | None = None
    preference: str | None = None
    power_mode: str | None = None
    virtual: bool | None = None
    container: ContainerRecord = field(default_factory=ContainerRecord)


@dataclass(frozen=True, kw_only=True)
class GpuRecord:
    """A GPU and how it is set."""

    name: str
    sm: int
    memory_bytes: int
    driver: str | None = None
    power_limit_watts: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What happened on a machine from before an engine was loaded until its last test ended.

    Clocks are in MHz. `cpu_mhz_tests`: of all cores, seen as each test ended; `fastest_mhz_tests`:
    of the fastest one. `throttles`: how often the processor slowed itself down. `limited_s`: how
    long the container's limit stopped its threads. `others_cpu`, `stolen_cpu`: cores that other
    processes used, and that the hypervisor kept, on average. `gpu_slowdowns`: the reasons that the
    GPU gave for slower clocks.
    """

    seconds: float
    cpu_mhz_before: Span | None = None
    cpu_mhz_after: Span | None = None
    cpu_mhz_tests: Span | None = None
    fastest_mhz_tests: Span | None = None
    gpu_mhz_before: float | None = None
    gpu_mhz_after: float | None = None
    gpu_mhz_tests: Span | None = None
    gpu_memory_mhz_tests: Span | None = None
    gpu_slowdowns: list[str] = field(default_factory=list)
    gpu_slowed_s: float | None = None
    throttles: int | None = None
    limited_s: float | None = None
    others_cpu: float | None = None
    stolen_cpu: float | None = None
    swap_before_bytes: int | None = None
    swap_after_bytes: int | None = None
