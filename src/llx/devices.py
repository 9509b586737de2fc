"""The devices that `llx plan` knows: data, no code paths.

Rates are dense and the GPU's alone: many published tables print rates with sparsity, or add the
accelerators beside the GPU. Units are those of datasheets: 1 GB is 10⁹ bytes. A figure that is not
known is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llx.errors import BadInput

Source = Literal["S", "D", "M"]
Kind = Literal["jetson", "datacenter", "workstation"]

SOURCES: dict[Source, str] = {
    "S": "read in a source",
    "D": "derived from other figures",
    "M": "from memory, not checked",
}

# What the chip multiplies, by architecture. Source: TensorRT-RTX 1.4, support matrix, for SM 75 (no
# bf16), 86, 89 (fp8) and 120 (fp4). From memory of the PTX ISA's `mma`: int8, and the other SMs.
TURING = ("fp32", "fp16", "int8")
AMPERE = ("fp32", "fp16", "bf16", "int8")
ADA = (*AMPERE, "fp8")  # and Hopper
BLACKWELL = (*ADA, "fp4")

_ORIN_TOOLS = (
    "NVIDIA's TensorRT Edge-LLM 0.11 offers fp16, int8 and int4 on Jetson Orin, and no others."
)


@dataclass(frozen=True)
class Figure:
    """A number of a specification, and how well it is known: a letter of `SOURCES`."""

    value: float
    source: Source


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as its specification describes it.

    `sms` and `clock_ghz`, where given, are what the derived rates were made from. `shared_memory`:
    the GPU has no memory of its own and shares that of the operating system. `power_w` is the
    largest power; `power_modes` are those that can be chosen. `precisions` are what the chip
    multiplies; weights in fewer bits can be unpacked to fp16 anywhere.
    """

    name: str
    title: str
    kind: Kind
    sm: int
    memory_gb: Figure
    bandwidth_gb_per_s: Figure
    fp16_tflops: Figure
    int8_tops: Figure | None = None
    fp8_tflops: Figure | None = None
    power_w: Figure
    power_modes: tuple[str, ...] = ()
    precisions: tuple[str, ...]
    shared_memory: bool = False
    sms: int | None = None
    clock_ghz: float | None = None
    note: str | None = None


def _s(value: float) -> Figure:
    return Figure(value, "S")


def _d(value: float) -> Figure:
    return Figure(value, "D")


def _m(value: float) -> Figure:
    return Figure(value, "M")


def _orin(
    name: str,
    title: str,
    sms: int,
    clock_ghz: float,
    memory_gb: float,
    bandwidth_gb_per_s: Figure,
    fp16_tflops: float,
    int8_tops: float,
    power_w: float,
    *power_modes: str,
) -> Device:
    """A Jetson Orin. Its rates follow from SMs × GHz × 2048 FLOP (fp16) or 4096 (int8) a cycle."""
    return Device(
        name=name,
        title=title,
        kind="jetson",
        sm=87,
        memory_gb=_m(memory_gb),
        bandwidth_gb_per_s=bandwidth_gb_per_s,
        fp16_tflops=_d(fp16_tflops),
        int8_tops=_d(int8_tops),
        power_w=_m(power_w),
        power_modes=power_modes,
        precisions=AMPERE,
        shared_memory=True,
        sms=sms,
        clock_ghz=clock_ghz,
        note=_ORIN_TOOLS,
    )


def _card(
    name: str,
    title: str,
    kind: Kind,
    sm: int,
    precisions: tuple[str, ...],
    source: Source,
    memory_gb: float,
    bandwidth_gb_per_s: float,
    fp16_tflops: float,
    int8_tops: float,
    fp8_tflops: float | None,
    power_w: float,
) -> Device:
    """A GPU with memory of its own, all of whose figures are known equally well."""
    return Device(
        name=name,
        title=title,
        kind=kind,
        sm=sm,
        memory_gb=Figure(memory_gb, source),
        bandwidth_gb_per_s=Figure(bandwidth_gb_per_s, source),
        fp16_tflops=Figure(fp16_tflops, source),
        int8_tops=Figure(int8_tops, source),
        fp8_tflops=None if fp8_tflops is None else Figure(fp8_tflops, source),
        power_w=Figure(power_w, source),
        precisions=precisions,
    )


# Orin NX and Nano run in two clock regimes: with and without Super they are different devices.
# name, title, SMs, GHz, GB, GB/s, fp16, int8, W, power modes
# fmt: off
_ORINS = (
    _orin("orin-nano-8", "Jetson Orin Nano 8GB",
          8, 0.625, 8, _s(68), 10.2, 20, 15, "7 W", "15 W"),
    _orin("orin-nano-8-super", "Jetson Orin Nano 8GB, Super",
          8, 1.02, 8, _s(102), 16.7, 33, 25, "MAXN_SUPER 25 W"),
    _orin("orin-nx-8", "Jetson Orin NX 8GB",
          8, 0.765, 8, _m(102.4), 12.5, 25, 20, "10 W", "15 W", "20 W"),
    _orin("orin-nx-16", "Jetson Orin NX 16GB",
          8, 0.918, 16, _m(102.4), 15.0, 30, 25, "10 W", "15 W", "25 W"),
    _orin("orin-nx-16-super", "Jetson Orin NX 16GB, Super",
          8, 1.173, 16, _m(102.4), 19.2, 38, 40, "MAXN_SUPER 40 W"),
    _orin("agx-orin-32", "Jetson AGX Orin 32GB",
          14, 0.93, 32, _m(204.8), 26.7, 53, 40, "15 W", "30 W", "40 W", "MAXN"),
    _orin("agx-orin-64", "Jetson AGX Orin 64GB",
          16, 1.30, 64, _m(204.8), 42.6, 85, 60, "15 W", "30 W", "50 W", "MAXN 60 W"),
)
# fmt: on

_THORS = (
    Device(
        name="thor-t4000",
        title="Jetson Thor T4000",
        kind="jetson",
        sm=110,
        memory_gb=_m(64),
        bandwidth_gb_per_s=_m(273),
        fp16_tflops=_m(150),
        power_w=_m(70),
        power_modes=("40 to 70 W",),
        precisions=BLACKWELL,
        shared_memory=True,
        sms=12,
        clock_ghz=1.53,
    ),
    Device(
        name="thor-t5000",
        title="Jetson Thor T5000",
        kind="jetson",
        sm=110,
        memory_gb=_s(128),
        bandwidth_gb_per_s=_m(273),
        fp16_tflops=_s(258.5),
        fp8_tflops=_d(517),
        power_w=_s(130),
        power_modes=("40 to 130 W",),
        precisions=BLACKWELL,
        shared_memory=True,
        sms=20,
        clock_ghz=1.575,
    ),
)

# name, title, kind, SM, precisions, source, GB, GB/s, fp16, int8, fp8, W
# fmt: off
_CARDS = (
    _card("t4", "T4", "datacenter", 75, TURING, "S", 16, 320, 65, 130, None, 70),
    _card("a10", "A10", "datacenter", 86, AMPERE, "M", 24, 600, 125, 250, None, 150),
    _card("l4", "L4", "datacenter", 89, ADA, "M", 24, 300, 121, 242, 242, 72),
    _card("l40s", "L40S", "datacenter", 89, ADA, "M", 48, 864, 362, 733, 733, 350),
    _card("a100-40-sxm", "A100 40GB SXM", "datacenter", 80, AMPERE, "S",
          40, 1555, 312, 624, None, 400),
    _card("a100-80-pcie", "A100 80GB PCIe", "datacenter", 80, AMPERE, "M",
          80, 1935, 312, 624, None, 300),
    _card("a100-80-sxm", "A100 80GB SXM", "datacenter", 80, AMPERE, "M",
          80, 2039, 312, 624, None, 400),
    _card("h100-pcie", "H100 PCIe", "datacenter", 90, ADA, "M", 80, 2039, 756, 1513, 1513, 350),
    _card("h100-sxm", "H100 SXM", "datacenter", 90, ADA, "S", 80, 3350, 989, 1979, 1979, 700),
    _card("h200-sxm", "H200 SXM", "datacenter", 90, ADA, "S", 141, 4800, 989, 1979, 1979, 700),
    _card("b200", "B200", "datacenter", 100, BLACKWELL, "M", 180, 8000, 2250, 4500, 4500, 1000),
    _card("rtx-4090", "GeForce RTX 4090", "workstation", 89, ADA, "M",
          24, 1008, 165, 330, 330, 450),
    _card("rtx-5090", "GeForce RTX 5090", "workstation", 120, BLACKWELL, "M",
          32, 1792, 210, 419, 419, 575),
)
# fmt: on

_GB10 = Device(
    name="gb10",
    title="GB10, as in DGX Spark",
    kind="workstation",
    sm=121,
    memory_gb=_s(128),
    bandwidth_gb_per_s=_s(273),
    fp16_tflops=_d(125),
    fp8_tflops=_d(250),
    power_w=_s(140),
    precisions=BLACKWELL,
    shared_memory=True,
)

DEVICES: tuple[Device, ...] = (*_ORINS, *_THORS, *_CARDS, _GB10)


def devices_named(names: str) -> tuple[Device, ...]:
    """The devices that `--device NAMES` means: a comma list, or `all`.

    The parts of a name may stand in any order: orin-agx-64 is agx-orin-64. Raises `BadInput` for
    an unknown one.
    """
    if names.strip().lower() == "all":
        return DEVICES
    known = {_parts(device.name): device for device in DEVICES}
    wanted = [name.strip().lower() for name in names.split(",")]
    for name in wanted:
        if _parts(name) not in known:
            choices = ", ".join(device.name for device in DEVICES)
            raise BadInput(f"unknown device {name!r}", f"choose all, or of {choices}")
    return tuple(known[parts] for parts in dict.fromkeys(map(_parts, wanted)))


def device_of(gpu: str, memory_bytes: int) -> Device | None:
    """The device that a driver calls so and that has so much memory, where one alone can be meant.

    Cards of one name differ in bandwidth; their memory tells most of them apart.
    """
    words = gpu.lower().replace("-", " ").split()
    # The driver calls an SXM module A100-SXM4-80GB or H100 80GB HBM3, and a card A100 80GB PCIe.
    form = "pcie" if "pcie" in words else "sxm" if {"sxm4", "hbm3", "hbm3e"} & {*words} else None
    found = []
    for device in DEVICES:
        parts = device.name.split("-")
        model = [part for part in parts if part not in ("sxm", "pcie", "40", "80")]
        near = abs(memory_bytes / 1e9 / device.memory_gb.value - 1) < 0.1
        if near and {*model} <= {*words} and (form is None or {"sxm", "pcie"} & {*parts} <= {form}):
            found.append(device)
    return found[0] if len({device.bandwidth_gb_per_s for device in found}) == 1 else None


def _parts(name: str) -> tuple[str, ...]:
    return tuple(sorted(name.split("-")))
