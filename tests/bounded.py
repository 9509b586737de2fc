"""Commands of llx one after another in a process of their own, within bounds of time and memory.

A command that hangs, or asks for more memory than it may have, shows as what it is; the process is
started anew. One process for many commands: importing PyTorch takes longer than most of them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOM_BYTES = 2 << 30
LIMIT_S = 10


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, 99 for an exception that got out, None for a hang."""

    code: int | None
    out: str
    err: str

    @property
    def fault(self) -> str | None:
        """What must never happen, whatever the input; None where all is as it should be."""
        if self.code is None:
            return f"no end within {LIMIT_S} s"
        last = self.err.strip().splitlines()[-1:]
        if self.code not in (0, 1, 2, 3):
            return f"exit {self.code}: {' '.join(last)}"
        if "Traceback" in self.err or "panicked" in self.err:
            return f"a traceback: {' '.join(last)}"
        says = last and last[0].startswith("llx: ")
        if self.code and not says and not (self.code == 1 and self.out):  # a verdict's table
            return f"exit {self.code} with no word of why: {self.err[-200:]!r}"
        return None


class Bounded:
    """The process. Use it as a context manager."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *arguments: str | Path) -> Ended:
        """Run `llx` with these arguments."""
        process = self._started()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([str(a) for a in arguments]).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _patience())
        line = process.stdout.readline() if ready else None
        if line is None:
            self._stop()
            return Ended(None, "", "")
        if not line:
            code = process.wait()
            self._stop()
            return Ended(code, "", f"the process died: {code}")
        if self._room() - _written(process.pid) < ROOM_BYTES // 2:
            self._stop()  # libraries that earlier commands loaded leave the next too little
        return Ended(**json.loads(line))

    def _room(self) -> int:
        """What the process may have of writable memory, in bytes."""
        assert self._process
        return resource.prlimit(self._process.pid, resource.RLIMIT_DATA)[0]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bounded"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._cwd,
                env=os.environ
                | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"},
            )
            assert self._process.stdout
            assert self._process.stdout.readline() == b"ready\n"
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe
                pipe.close()
        self._process = None


def _patience() -> float:
    """Ten seconds of a machine that has nothing else to do."""
    return LIMIT_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) + 5


def _written(process: int | str) -> int:
    """Writable memory that a process has, in bytes."""
    (used,) = re.findall(r"VmData:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(used) * 1024


def _serve() -> None:
    import llx.api.bench
    import llx.bench.sessions.ort
    import llx.bench.sessions.torch
    import llx.exporter.graph.trace
    import llx.exporter.load  # noqa: F401

    _trace_once()
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody types anything
    # Of writable memory, not of addresses: V8, which draws the plots, reserves many of those.
    most = _written("self") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    answers.write("ready\n")
    answers.flush()
    for line in orders:
        arguments = json.loads(line)
        with _captured() as said:
            code = _run(arguments)
        answers.write(json.dumps({"code": code, **said}) + "\n")
        answers.flush()


def _trace_once() -> None:
    """Trace each model once: that takes longer than all the rest of a small export."""
    from functools import cache

    from llx.exporter.graph import stamp

    stamp.stamped_trace = cache(stamp.stamped_trace)


def _run(arguments: list[str]) -> int:
    from llx.__main__ import main

    sys.argv = ["llx", *arguments]
    started = time.monotonic()
    try:
        main()
    except SystemExit as ended:
        if time.monotonic() - started > _patience():
            return 98
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    return 99


@contextlib.contextmanager
def _captured() -> Iterator[dict[str, str]]:
    """What is printed, by libraries past Python's streams too."""
    said: dict[str, str] = {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                said[name] = file.read().decode(errors="replace")


if __name__ == "__main__":
    faulthandler.enable()
    _serve()
