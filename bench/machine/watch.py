"""Watches a machine while an engine is measured: energy of what is timed, clocks, other processes.

Everything is read outside of the timed windows: before the engine is loaded, as each test ends, and
when all are done. Needs the standard library only: it runs on a device too.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from llx.bench.clock import now_ns
from llx.bench.machine.container import limited_s
from llx.bench.machine.energy import CounterMeter, GaugeMeter, Meter, Missing
from llx.bench.machine.kernel import CPUS, SYSTEM, memory_bytes
from llx.bench.machine.nvml import GpuState, Nvml, NvmlCounter, NvmlGauge, find_energy, open_nvml
from llx.bench.machine.rails import Rails, Tegrastats, find_rails
from llx.bench.machine.rapl import Rapl, find_rapl
from llx.bench.machine.sysfs import number, numbered, text, whole
from llx.conditions import EnergyRecord, GpuRecord, RunRecord, Span
from llx.gpu import Gpu

Source = Rapl | NvmlCounter | NvmlGauge | Rails | Tegrastats | Missing

BUSY, STOLEN = (0, 1, 2, 5, 6), 7  # of /proc/stat: user, nice, system, irq, softirq; steal
MOST_MHZ = 100_000
JETSON_GPUS = ("gpu", "gp10b", "gv11b", "ga10b", "gb10b")  # in the names of their devices


@dataclass(frozen=True)
class State:
    """A machine at one moment. Seconds of CPU are those since it started, of all its CPUs."""

    at_s: float
    own_s: float
    busy_s: float | None
    stolen_s: float | None
    limited_s: float | None
    throttles: int | None
    swap_bytes: int | None
    mhz: tuple[float, ...]
    gpu: GpuState | None = None


def read_state(root: Path = SYSTEM, gpu: Nvml | None = None) -> State:
    """This machine now, or the one whose files lie under a root."""
    ticks = _ticks(root)
    total, free = memory_bytes(root, "SwapTotal"), memory_bytes(root, "SwapFree")
    children = os.times()
    return State(
        at_s=now_ns() / 1e9,
        own_s=time.process_time() + children.children_user + children.children_system,
        busy_s=sum(ticks[i] for i in BUSY) / _per_second() if ticks else None,
        stolen_s=ticks[STOLEN] / _per_second() if ticks else None,
        limited_s=limited_s(root),
        throttles=throttles(root),
        swap_bytes=None if total is None or free is None else max(0, total - free),
        mhz=read_mhz(root),
        gpu=_gpu_state(root, gpu),
    )


def _gpu_state(root: Path, gpu: Nvml | None) -> GpuState | None:
    """The GPU by NVML, or a Jetson's clock, which NVML refuses to tell, by the kernel's devfreq."""
    state = gpu.state() if gpu else None
    if state and state.sm_mhz is not None:
        return state
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hertz = number(device / "cur_freq", 10**6 * MOST_MHZ)
        if hertz and any(name in device.name for name in JETSON_GPUS):
            return GpuState(hertz / 1e6, None, (), None)
    return state


def _per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _ticks(root: Path) -> list[int] | None:
    """The first eight counts of all CPUs in /proc/stat; None where they are not told."""
    found = re.match(r"cpu +(\d+(?: \d+){7,})", text(root / "proc/stat") or "")
    if not found:
        return None
    ticks = [whole(part) for part in found.group(1).split()[:8]]
    counts = [count for count in ticks if count is not None]
    return counts if len(counts) == 8 and any(counts) else None


def read_mhz(root: Path = SYSTEM) -> tuple[float, ...]:
    """The clock of each CPU, as far as it is told."""
    cpus = numbered(root / CPUS, "cpu")
    khz = [number(cpu / "cpufreq/scaling_cur_freq", 1000 * MOST_MHZ) for cpu in cpus]
    told = tuple(value / 1e3 for value in khz if value)
    if told:
        return told
    said = re.findall(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d{1,6})?)$", _info(root), re.MULTILINE)
    return tuple(value for value in map(float, said) if 0 < value <= MOST_MHZ)


def _info(root: Path) -> str:
    return text(root / "proc/cpuinfo") or ""


def throttles(root: Path = SYSTEM) -> int | None:
    """How often the processor slowed itself down: by heat on x86, by current on a Jetson."""
    counts = [
        number(cpu / f"thermal_throttle/{part}_throttle_count")
        for cpu in numbered(root / CPUS, "cpu")
        for part in ("core", "package")
    ]
    for chip in numbered(root / "sys/class/hwmon", "hwmon"):
        counts += [number(path) for path in sorted(chip.glob("oc[0-9]_event_cnt"))]
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def find_source(
    gpu: Nvml | Missing | None, root: Path = SYSTEM, tegrastats: str | None = None
) -> Source:
    """What tells the energy of an engine: a Jetson's rails, else the GPU's, else the CPU's.

    `gpu`: None for an engine that runs on the CPU.
    """
    found = find_rails(root, tegrastats)
    if found is not None:
        return found
    return find_rapl(root) if gpu is None else find_energy(gpu)


def meter_for(source: Source) -> Meter:
    """A meter that reads a source."""
    if isinstance(source, Missing):
        return Meter(f"{source.reason}: {source.remedy}")
    if isinstance(source, Rapl | NvmlCounter):
        return CounterMeter(source)
    return GaugeMeter(source)


class Watch:
    """Watches from before an engine is loaded until its last test has ended.

    It is a context, at whose end nothing is read any more.
    """

    def __init__(self, gpu: Gpu | None = None, root: Path = SYSTEM) -> None:
        self._root, self._card = root, gpu
        opened = open_nvml(gpu) if gpu else None
        self._gpu = opened if isinstance(opened, Nvml) else None
        self._meter = meter_for(find_source(opened, root, shutil.which("tegrastats")))
        self._seen: list[State] = []
        self._meter.measure_idle()
        self._before = self._look()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.close()

    def window(self) -> AbstractContextManager[None]:
        """What happens inside is timed."""
        return self._meter.window()

    def test_ended(self, tokens: int) -> EnergyRecord:
        """See in which state a test has left the machine; its energy, for so many tokens."""
        self._seen.append(self._look())
        return self._meter.take(tokens)

    def gpu(self) -> GpuRecord | None:
        """The GPU of the engine, where it has one."""
        if self._card is None:
            return None
        return GpuRecord(
            name=self._card.name,
            sm=self._card.sm,
            memory_bytes=self._card.memory_bytes,
            driver=self._gpu.driver() if self._gpu else None,
            power_limit_watts=self._gpu.power_limit_watts() if self._gpu else None,
        )

    def end(self) -> RunRecord:
        """What happened until now."""
        return run_record(self._before, self._seen, self._look())

    def _look(self) -> State:
        return read_state(self._root, self._gpu)


def run_record(before: State, seen: list[State], after: State) -> RunRecord:
    """What happened between two states of a machine, with those seen as each test ended."""
    seconds = after.at_s - before.at_s
    busy, stolen = (_grown(getattr(before, n), getattr(after, n)) for n in ("busy_s", "stolen_s"))
    others = None if busy is None else max(0.0, busy - (after.own_s - before.own_s))
    cards = [state.gpu for state in seen if state.gpu]
    slowed = [state.gpu.slowed_s if state.gpu else None for state in (before, after)]
    throttled = _grown(before.throttles, after.throttles)
    return RunRecord(
        seconds=seconds,
        cpu_mhz_before=_span(before.mhz),
        cpu_mhz_after=_span(after.mhz),
        cpu_mhz_tests=_span([mhz for state in seen for mhz in state.mhz]),
        fastest_mhz_tests=_span([max(state.mhz) for state in seen if state.mhz]),
        gpu_mhz_before=before.gpu.sm_mhz if before.gpu else None,
        gpu_mhz_after=after.gpu.sm_mhz if after.gpu else None,
        gpu_mhz_tests=_span([card.sm_mhz for card in cards if card.sm_mhz is not None]),
        gpu_memory_mhz_tests=_span([c.memory_mhz for c in cards if c.memory_mhz is not None]),
        gpu_slowdowns=list(dict.fromkeys(name for card in cards for name in card.slowdowns)),
        gpu_slowed_s=_grown(*slowed),
        throttles=None if throttled is None else int(throttled),
        limited_s=_grown(before.limited_s, after.limited_s),
        others_cpu=others / seconds if others is not None and seconds > 0 else None,
        stolen_cpu=stolen / seconds if stolen is not None and seconds > 0 else None,
        swap_before_bytes=before.swap_bytes,
        swap_after_bytes=after.swap_bytes,
    )


def overall_run(runs: list[RunRecord]) -> RunRecord | None:
    """Of one run after another: the first's beginning, the last's end, and all between."""
    if not runs:
        return None
    seconds = sum(run.seconds for run in runs)

    def span(name: str) -> Span | None:
        spans = [span for run in runs if (span := getattr(run, name))]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None

    def told(name: str) -> list[float]:
        return [value for run in runs if (value := getattr(run, name)) is not None]

    def mean(name: str) -> float | None:
        parts = [(getattr(run, name), run.seconds) for run in runs]
        known = [(value, took) for value, took in parts if value is not None and took > 0]
        took = sum(took for _, took in known)
        return sum(value * took for value, took in known) / took if took else None

    def total(name: str) -> float | None:
        return sum(told(name)) if told(name) else None

    throttles = total("throttles")
    return replace(
        runs[0],
        seconds=seconds,
        cpu_mhz_after=runs[-1].cpu_mhz_after,
        gpu_mhz_after=runs[-1].gpu_mhz_after,
        gpu_slowdowns=list(dict.fromkeys(name for run in runs for name in run.gpu_slowdowns)),
        throttles=None if throttles is None else int(throttles),
        gpu_slowed_s=total("gpu_slowed_s"),
        limited_s=total("limited_s"),
        cpu_mhz_tests=span("cpu_mhz_tests"),
        fastest_mhz_tests=span("fastest_mhz_tests"),
        gpu_mhz_tests=span("gpu_mhz_tests"),
        gpu_memory_mhz_tests=span("gpu_memory_mhz_tests"),
        others_cpu=mean("others_cpu"),
        stolen_cpu=mean("stolen_cpu"),
        swap_after_bytes=runs[-1].swap_after_bytes,
    )


def _grown(before: float | None, after: float | None) -> float | None:
    """How much a count has grown; None where it was not told, or started anew."""
    return after - before if before is not None and after is not None and after >= before else None


def _span(values: list[float] | tuple[float, ...]) -> Span | None:
    return (min(values), max(values)) if values else None
