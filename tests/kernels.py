"""The tests that compute, with the kernels of other CPUs, other threads and other made-up numbers.

    python tests/kernels.py            every kind of CPU; with ten seeds, one thread and two
    python tests/kernels.py --short    two kinds, one thread and two, another seed each

A line for each run: settings, how many tests passed and failed, seconds. Exits with 1 where one
failed, and prints what pytest said of it.

PyTorch, MKL, oneDNN and OpenBLAS have environment variables for the instructions that they take.
ONNX Runtime has none: its MLAS asks the CPU, once, as it loads (`mlas.*` among the options of a
session turn off KleidiAI, which is of ARM; `session.x64quantprecision` is about saturation without
VNNI). So the instruction itself is made to answer as another CPU's would, by tests/cpuid.c, where a
C compiler is and Linux traps CPUID on this CPU; every library then follows. Where not, a line says
"ONNX Runtime's own", and its sums are in another order by the threads and the seeds alone.

A CPU can play an older one, never a newer: what this one lacks is left out, and said so.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from llx.bench import clock

ROOT = Path(__file__).resolve().parent.parent
# What compares engines and layers: the short form's, and what two threads are tried with.
COMPARED = (
    "tests/graphs/test_linear.py",
    "tests/graphs/test_vocabulary.py",
    "tests/graphs/test_dialects.py",
    "tests/graphs/test_ort.py",
    "tests/llama/test_model.py",
    "tests/exporter/quantization/test_fold.py",
    "tests/exporter/quantization/test_rounding.py",
)
# And all else that computes. What is not here knows no kernels.
NUMERIC = (
    *COMPARED,
    "tests/graphs/test_weight_only.py",
    "tests/bench/fidelity",
    "tests/bench/sessions/test_sessions.py",
    "tests/bench/sessions/test_trt.py",
    "tests/exporter/graph/test_trace.py::test_the_exported_program_computes_what_eager_does",
    "tests/exporter/quantization/test_budget.py",
    "tests/exporter/quantization/test_calibrate.py",
    "tests/exporter/test_quantize.py",
    "tests/cli/test_int8.py",
)
# The environment for each kind of CPU, from the newest to the oldest, and the flag in
# /proc/cpuinfo that this CPU must have to play it. AMD's name makes MKL take other kernels.
CPUS = {
    "zen4": ("avx512_bf16", {}),
    "skylake": (
        "avx512bw",
        {"OPENBLAS_CORETYPE": "SkylakeX", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    ),
    "avx2": (
        "avx2",
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
        },
    ),
    "sse": (
        "sse4_2",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Nehalem",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
        },
    ),
}
SEEDS = range(1, 11)


class Setting(NamedTuple):
    """One run: a kind of CPU ("here": as it is), threads of each engine, a seed."""

    cpu: str
    threads: int
    seed: int


def settings(short: bool, kinds: list[str]) -> Iterator[Setting]:
    """The runs of a form, on a machine that can play these kinds of CPU."""
    if short:
        yield Setting(kinds[-1], 1, 1)
        yield Setting(kinds[-2] if len(kinds) > 1 else kinds[-1], 2, 2)
        return
    yield from (Setting(cpu, 1, 0) for cpu in kinds[1:])  # "here" with one thread: `make test`
    pairs = list(product((1, 2), kinds))
    for seed in SEEDS:
        threads, cpu = pairs[seed % len(pairs)]
        yield Setting(cpu, threads, seed)


def playable() -> list[str]:
    """The kinds of CPU that this one can play, itself first."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return ["here"]
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text().split("flags", 2)[1]))
    return ["here", *(name for name, (flag, _) in CPUS.items() if flag in flags)]


def trap(folder: Path) -> Path | None:
    """The library that makes CPUID answer as another CPU's, where that works."""
    compiler, library = shutil.which("cc"), folder / "cpuid.so"
    if compiler is None:
        return None
    built = [compiler, "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests" / "cpuid.c"]
    environment = os.environ | {"LLX_CPUID": "sse", "LD_PRELOAD": str(library)}
    for command, env in ((built, os.environ), ([sys.executable, "-c", ""], environment)):
        if subprocess.run(command, env=env, capture_output=True, check=False).returncode:
            return None
    return library


def run(setting: Setting, short: bool, library: Path | None) -> bool:
    """Run the tests once; print the line, and pytest's words where one failed."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(setting.threads),
        "OMP_WAIT_POLICY": "passive",  # two threads of two workers would spin for one another
        "LLX_TEST_SEED": str(setting.seed),
    }
    of_ort = ""
    if setting.cpu != "here":
        environment |= CPUS[setting.cpu][1]
        of_ort = ", ONNX Runtime's own"
        if library is not None:
            environment |= {"LLX_CPUID": setting.cpu, "LD_PRELOAD": str(library)}
            of_ort = ""
    workers = max(1, (os.cpu_count() or 1) // setting.threads)
    options = ("-n", workers, "--dist", "loadfile", "-p", "no:faulthandler", "--tb=short")
    paths = COMPARED if short or setting.threads > 1 else NUMERIC
    began = clock.now_ns()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), *paths],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    counts = dict.fromkeys(("passed", "failed", "error"), 0)
    for number, what in re.findall(r"(\d+) (passed|failed|error)", ended.stdout[-2000:]):
        counts[what] = int(number)
    failed = counts["failed"] + counts["error"]
    right = ended.returncode == 0 and counts["passed"] > 0
    print(
        f"{setting.cpu + of_ort}, {setting.threads} thread{'s'[: setting.threads - 1]}, "
        f"seed {setting.seed}: {counts['passed']} passed, {failed} failed, "
        f"{(clock.now_ns() - began) / 1e9:.0f} s",
        flush=True,
    )
    if not right:
        print(ended.stdout[-20000:], ended.stderr[-5000:], flush=True)
    return right


def main() -> None:
    """Run every setting; exit with 1 where one was red."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="minutes, as CI does")
    short = parser.parse_args().short
    kinds = playable()
    missing = CPUS.keys() - set(kinds)
    if missing and not short:
        print(f"left out, this CPU cannot play them: {', '.join(sorted(missing))}")
    with tempfile.TemporaryDirectory() as folder:
        library = trap(Path(folder))
        right = [run(setting, short, library) for setting in settings(short, kinds)]
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
