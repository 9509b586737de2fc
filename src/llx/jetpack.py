"""The JetPacks: which TensorRT each brings to which Jetson. Data, and the choice among it.

TensorRT, CUDA and Python are NVIDIA's release notes'. `l4t`, the release of Jetson Linux beneath,
is from memory and only used to say that a JetPack is too old; where it is None, TensorRT's version
alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from llx.devices import Device
from llx.errors import BadInput
from llx.precision import Precision

OLDEST_TENSORRT = (10, 3)


@dataclass(frozen=True, kw_only=True)
class JetPack:
    """A release. `boards` are parts of the catalogue's device names.

    `shipped`: its TensorRT is there after flashing; otherwise it has to be installed beside the
    one that is, and such a JetPack is never chosen by default. `usual`: what most of its boards
    run, although there are newer ones.
    """

    version: str
    tensorrt: str
    cuda: str
    python: str
    l4t: str | None
    boards: tuple[str, ...]
    shipped: bool = True
    usual: bool = False

    @property
    def tensorrt_version(self) -> tuple[int, int]:
        """TensorRT's major and minor version."""
        major, minor = self.tensorrt.split(".")
        return int(major), int(minor)

    def runs_on(self, device: Device) -> bool:
        """Whether it is a release for the device."""
        return any(board in device.name for board in self.boards)


# version, TensorRT, CUDA, Python, Jetson Linux, boards
JETPACKS = tuple(
    JetPack(
        version=v,
        tensorrt=t,
        cuda=c,
        python=p,
        l4t=l4t,
        boards=boards,
        shipped=v != "7.2.2",
        usual=v == "6.2",
    )
    for v, t, c, p, l4t, boards in (
        ("5.1", "8.5", "11.4", "3.8", "35.2", ("orin",)),
        ("6.0", "8.6", "12.2", "3.10", "36.3", ("orin",)),
        ("6.1", "10.3", "12.6", "3.10", "36.4", ("orin",)),
        ("6.2", "10.3", "12.6", "3.10", "36.4", ("orin",)),
        ("7.0", "10.13", "13.0", "3.12", "38.2", ("thor",)),
        ("7.1", "10.13", "13.0", "3.12", "38.4", ("thor",)),
        ("7.2", "10.16", "13.2", "3.12", None, ("orin", "thor")),
        ("7.2.2", "11.4", "13.2", "3.12", None, ("agx-orin", "thor")),
    )
)


def jetpack_for(device: Device, version: str | None = None) -> JetPack:
    """The JetPack that `--jetpack VERSION` means.

    By default the one that most boards of the kind run, else the newest with a TensorRT of its own.
    Raises `BadInput` where the device is no Jetson, has no such JetPack, or gets from it a TensorRT
    that is too old for these graphs.
    """
    if device.kind != "jetson":
        raise BadInput(
            f"{device.name} is no Jetson, and has no JetPack",
            "run `llx build` on it, or reach it with --remote user@host and no --jetpack",
        )
    fitting = [release for release in JETPACKS if release.runs_on(device)]
    usable = [release for release in fitting if release.tensorrt_version >= OLDEST_TENSORRT]
    if version is None:
        shipped = [release for release in usable if release.shipped]
        return next((release for release in shipped if release.usual), shipped[-1])
    named = next((release for release in fitting if release.version == version), None)
    choice = f"choose among {', '.join(release.version for release in usable)}"
    if named is None:
        raise BadInput(f"there is no JetPack {version} for {device.name}", choice)
    if named not in usable:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise BadInput(
            f"JetPack {version} has TensorRT {named.tensorrt}, and these graphs need {oldest} or "
            "newer",
            f"update the Jetson, and {choice}",
        )
    return named


def reported_not_to_build(device: Device, release: JetPack, precision: Precision) -> str | None:
    """What others report of a precision on a Jetson, a line to say before anything is sent there.

    None where nothing is known. It was not seen here: no Jetson was.
    """
    scales_in_fp16 = precision.linear in ("int8", "int8-wo") and precision.compute == "fp16"
    if "orin" in device.name and release.version == "7.2" and scales_in_fp16:
        return (
            "int8 with fp16 scales for JetPack 7.2 on an Orin is reported not to build "
            "(NVIDIA/TensorRT#4832): name --jetpack 6.2 where the Orin has it, or export with "
            "--precision fp16"
        )
    return None
