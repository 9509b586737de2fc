"""What a machine is and has, and which files of a bundle: asked there, before anything is sent.

This file needs Python 3.8 and its standard library only, and imports nothing of llx: it is also
piped into the Python of a machine that has nothing else of ours yet, and which may be too old.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple  # noqa: UP035 -- Python 3.8 reads this file

RELEASE = "/etc/nv_tegra_release"
MODEL = "/proc/device-tree/model"
OLDEST_PYTHON = (3, 10)
CHUNK_BYTES = 8 << 20
OUT = "out"  # the folder of a bundle that holds what was made there


@dataclass(frozen=True)
class Machine:
    """A machine as it describes itself. None is what it did not say."""

    architecture: str
    system: str
    python: str
    numpy: Optional[str]  # noqa: UP045
    tensorrt: Optional[str]  # noqa: UP045 -- the version of the runtime that was asked for
    model: Optional[str]  # noqa: UP045
    l4t: Optional[str]  # noqa: UP045 -- the release of Jetson Linux, such as 36.4.3
    power_mode: Optional[str]  # noqa: UP045
    clocks: Optional[str]  # noqa: UP045
    cpus: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True)
class Needs:
    """What a bundle needs. `tensorrt`: major.minor, "" for any; `jetpack`: None elsewhere."""

    runtime: str
    tensorrt: str
    jetpack: Optional[str]  # noqa: UP045
    l4t: Optional[str]  # noqa: UP045
    memory_bytes: int
    disk_bytes: int


def describe(modules: List[str], folder: str, release: str = RELEASE) -> Machine:  # noqa: UP006
    """This machine. `modules`: names of the TensorRT wanted; `folder`: where the disk is asked."""
    memory = _memory()
    return Machine(
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        numpy=_version_of(["numpy"]),
        tensorrt=_version_of(modules),
        model=_text(MODEL),
        l4t=l4t_of(_text(release)),
        power_mode=power_mode(),
        clocks=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        cpus=os.cpu_count() or 0,
        memory_bytes=memory.get("MemTotal", 0),
        memory_free_bytes=memory.get("MemAvailable", 0),
        disk_free_bytes=_disk_free(folder),
    )


def l4t_of(text: Optional[str]) -> Optional[str]:  # noqa: UP045
    """The release in `# R36 (release), REVISION: 4.3, …`: 36.4.3. None where there is none."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text or "")
    return f"{found.group(1)}.{found.group(2)}" if found else None


def unmet(machine: Machine, needs: Needs) -> Optional[Tuple[str, str]]:  # noqa: UP006, UP045
    """The first thing that a machine lacks for a bundle, and what mends it; None if nothing."""
    gb = 1e9
    if needs.jetpack and not machine.l4t:
        return (
            f"that machine is no Jetson: it has no {RELEASE}",
            "name the Jetson with --remote, or copy the bundle to it",
        )
    if needs.l4t and machine.l4t and _numbers(machine.l4t) < _numbers(needs.l4t):
        return (
            f"its Jetson Linux {machine.l4t} is older than JetPack {needs.jetpack}'s {needs.l4t}",
            "update it, or name the JetPack that it has with --jetpack",
        )
    if not machine.tensorrt:
        return (
            f"its Python {machine.python} has no {needs.runtime}",
            "install it (on a Jetson: `sudo apt install nvidia-jetpack`), or name the Python that "
            "has it with --python",
        )
    if needs.tensorrt and _numbers(machine.tensorrt)[:2] != _numbers(needs.tensorrt):
        return (
            f"it has TensorRT {machine.tensorrt}, and this is for {needs.tensorrt}",
            "name the JetPack that it has with --jetpack",
        )
    if _numbers(machine.python)[:2] < list(OLDEST_PYTHON):
        return (f"its Python {machine.python} is older than 3.10", "name a newer one with --python")
    if not machine.numpy:
        return (f"its Python {machine.python} has no numpy", "`sudo apt install python3-numpy`")
    if machine.memory_free_bytes < needs.memory_bytes:
        return (
            f"it has {machine.memory_free_bytes / gb:.1f} GB of memory free, and the weights alone "
            f"are {needs.memory_bytes / gb:.1f} GB",
            "end what else runs there, or choose a smaller model or precision",
        )
    if machine.disk_free_bytes < needs.disk_bytes:
        return (
            f"its disk has {machine.disk_free_bytes / gb:.1f} GB free, and weights and engine need "
            f"{needs.disk_bytes / gb:.1f} GB",
            "free space there",
        )
    return None


def partial_name(name: str, sha256: str) -> str:
    """Where the beginning of a file lies until all of it is there: a beginning of that content."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/.{base}.{sha256[:12]}.partial".lstrip("/")


def inventory(folder: str, files: Dict[str, List]) -> Dict[str, int]:  # type: ignore[type-arg]  # noqa: UP006
    """Files of a bundle that are not there: name → bytes of it that have arrived already.

    `files`: name → [bytes, SHA-256]. What is in the folder and none of them is removed, as are
    files of another content, so that no earlier bundle's module is ever imported.
    """
    root = Path(folder)
    partials = {partial_name(name, sha256): name for name, (_, sha256) in files.items()}
    for path in sorted(root.rglob("*"), reverse=True):
        name = path.relative_to(root).as_posix()
        if name == OUT or name.startswith(f"{OUT}/") or name in partials:
            continue
        if path.is_symlink() or path.is_file():
            if name not in files or _content(path) != tuple(files[name]):
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    missing = {}
    for partial, name in partials.items():
        if not (root / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            begun = root / partial
            missing[name] = begun.stat().st_size if begun.is_file() else 0
    return missing


def _content(path: Path) -> Tuple[int, str]:  # noqa: UP006
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return path.stat().st_size, digest.hexdigest()


def _version_of(modules: List[str]) -> Optional[str]:  # noqa: UP006, UP045
    for name in modules:
        try:
            return str(importlib.import_module(name).__version__)
        except (ImportError, AttributeError, OSError):
            continue
    return None


def _text(path: str) -> Optional[str]:  # noqa: UP045
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _memory() -> Dict[str, int]:  # noqa: UP006
    """Bytes by the names of /proc/meminfo."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in lines}


def _disk_free(folder: str) -> int:
    path = Path(folder).absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.is_dir())).free


def power_mode() -> Optional[str]:  # noqa: UP045
    """A Jetson's power mode, by its own tool."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    try:
        said = subprocess.run(
            [tool, "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode: *(.+)", said)
    return found.group(1).strip() if found else None


def _numbers(version: str) -> List[int]:  # noqa: UP006
    return [int(part) for part in re.findall(r"\d+", version)]
