"""Commands of llx whose system calls fail, or that end at one of them, below a folder.

A process that has all libraries loaded, with tests/faults.c before them, forks for each command: a
small export then takes a fraction of a second. What a power cut leaves is in tests/powercut.py.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bounded import Ended

SOURCE = Path(__file__).with_name("faults.c")
CONTROL = struct.Struct("6i512s512s512s")  # as tests/faults.c has it
LIMIT_S = 60
ERRORS = {
    "a full disk": errno.ENOSPC,
    "a broken disk": errno.EIO,
    "no permission": errno.EACCES,
}
SIGNALS = {name: -getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT")}


@dataclass(frozen=True)
class Fault:
    """The call, from 1 on, that fails with an errno, or that a signal (below 0) takes the place of.

    0 is none: calls are counted.
    """

    at: int = 0
    what: int = 0


def library(folder: Path) -> Path | None:
    """tests/faults.c, compiled; None where there is no compiler for it."""
    compiler, made = shutil.which("cc"), folder / "faults.so"
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", made, SOURCE, "-ldl"]
    return None if subprocess.run(command, check=False).returncode else made


class Faulty:
    """The process that forks. Use it as a context manager."""

    def __init__(self, folder: Path, made: Path) -> None:
        self._control, self.logged = folder / "control", folder / "logged"
        self._control.write_bytes(bytes(CONTROL.size))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=os.environ
            | {
                "PYTHONPATH": str(SOURCE.parents[1]),
                "OMP_NUM_THREADS": "1",
                "LLX_FAULTS": str(self._control),
                "LD_PRELOAD": str(made),
            },
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def run(self, folder: Path, words: list[str], fault: Fault | None = None) -> tuple[Ended, int]:
        """Run a command of llx, or a function of this module, in a folder; how many calls it made.

        State lies in the folder as well. Without a fault, nothing is counted. `logged` is then a
        folder with what was called, and what was replaced and removed.
        """
        shutil.rmtree(self.logged, ignore_errors=True)
        self.logged.mkdir()
        order = {"folder": str(folder), "words": words, "control": str(self._control)}
        if fault is not None:
            paths = [str(folder), str(self.logged / "log"), str(self.logged)]
            order |= {"fault": [fault.at, fault.what], "paths": paths}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], 2 * LIMIT_S)
        assert ready, f"{words} hangs"
        answer = json.loads(self._process.stdout.readline())
        count = CONTROL.unpack(self._control.read_bytes())[1]
        return Ended(answer["code"], answer["out"], answer["err"]), count


def _serve() -> None:
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm()
    answers.write("ready\n")
    answers.flush()
    for line in orders:
        answers.write(json.dumps(_forked(json.loads(line))) + "\n")
        answers.flush()


def _warm() -> None:
    """Import what commands need, and trace the small model: a fork has it all."""
    import llx.api.export
    import llx.bench.sessions.ort
    import llx.bench.sessions.torch
    import llx.exporter.load
    import llx.exporter.quantization.run
    import llx.exporter.readback
    import llx.reports.report
    from llx.precision import precision_named
    from tests.bounded import _trace_once
    from tests.checkpoints import TINY, write_checkpoint
    from tests.conftest import export_tiny
    from tests.reports.made import result

    llx.reports.report.write_report([result()], Path("warm"))
    _trace_once()
    write_checkpoint(Path("warm") / "checkpoint", TINY)
    for context in (None, 32):
        export_tiny(Path("warm") / str(context), context=context)
    export_tiny(Path("warm") / "int8", precision_named("int8", "fp32"))


def _forked(order: dict[str, Any]) -> dict[str, Any]:
    """Run an order in a fork; code None is a hang."""
    files = [Path(name).absolute() for name in ("out", "err")]
    process = os.fork()
    if not process:
        os._exit(_work(order, files))
    late = time.monotonic() + LIMIT_S
    code: int | None = None
    while time.monotonic() < late:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.002)
    else:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    out, err = (file.read_text(errors="replace") for file in files)
    return {"code": code, "out": out, "err": err}


def _work(order: dict[str, Any], files: list[Path]) -> int:
    """The body of the fork: what it prints goes into files, and its exit code is returned."""
    os.setpgid(0, 0)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(order["folder"])
    for kind in ("STATE", "CACHE"):
        os.environ[f"XDG_{kind}_HOME"] = f"{order['folder']}/{kind.lower()}"
    at, what = order.get("fault") or (0, 0)
    paths = [path.encode() for path in order.get("paths", [""] * 3)]
    control = CONTROL.pack("fault" in order, 0, at, what, os.getpid(), 0, *paths)
    with open(order["control"], "r+b") as file:  # others have it mapped: it must not be cut short
        file.write(control)
    from tests.bounded import _run

    words = order["words"]
    code = FUNCTIONS[words[0]]() if words[0] in FUNCTIONS else _run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _as_command(work: Callable[[], object]) -> Callable[[], int]:
    """A function that ends as a command does."""

    def run() -> int:
        from llx import cli
        from tests.bounded import _run

        cli.app = lambda **_: work()
        return _run([])

    return run


def _write_results() -> None:
    """What `llx report` and `llx selftest` write, but for the page, whose plots take seconds."""
    from llx.api.results import Results
    from llx.reports.history import remember
    from llx.reports.report import write_report
    from tests.reports.made import result

    found = [result()]
    Results(found).write("results.json")
    remember(found, Path("history.jsonl"))
    write_report(found, Path("page"))


def _build() -> None:
    """A build whose engine is no engine: TensorRT-RTX takes seconds for one."""
    from llx.artifact import open_artifact
    from llx.exporter.engines import build as building
    from llx.exporter.engines.build import BuildRequest, build_engine
    from tests.doubles.tensorrt import FakeTensorRT

    building.load = FakeTensorRT
    building.targets = lambda api: [86]
    building.in_own_process = _built
    request = BuildRequest(runtime="trt-rtx", sm=86, context=64, max_prefill=16)
    build_engine(open_artifact("out"), request, overwrite=Path("overwrite").exists())


def _built(_: Any, job: Any, *__: Any) -> Any:
    from hashlib import sha256

    from llx.engine import PLAN
    from llx.exporter.engines.build import SAID, _Built
    from llx.manifest import FileRecord

    data = bytes(100_000)
    (job.folder / PLAN).write_bytes(data)
    (job.folder / SAID).write_bytes(b"")
    return _Built(FileRecord(bytes=len(data), sha256=sha256(data).hexdigest()), {}, 1.0, None)


FUNCTIONS: dict[str, Callable[[], int]] = {
    "write results": _as_command(_write_results),
    "build": _as_command(_build),
}

if __name__ == "__main__":
    _serve()
