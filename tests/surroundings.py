"""Commands of llx as a user starts them, in odd surroundings: limits, streams, locales, homes."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bounded import Ended

LIMIT_S = 120.0  # of a command that imports PyTorch or lm-eval, on a machine with other work
NOBODY = 54321  # a user that no passwd file knows
LATIN1 = b"caf\xe9\xff"  # a name that is not UTF-8


@dataclass(frozen=True)
class Surrounding:
    """How a child process is started.

    `changes`: of the environment, None takes a variable out. `inside`: what the child does before
    it becomes llx. `streams`: instead of pipes. `odd_names`: whether the names of files and folders
    are not UTF-8. `away`: whether llx starts in another folder than theirs. `may`: exit codes
    beside 0, 1, 2, 3 that are right here.
    """

    name: str
    changes: Mapping[str, str | None] = field(default_factory=dict)
    inside: Callable[[], None] | None = None
    streams: Mapping[str, str] = field(default_factory=dict)
    odd_names: bool = False
    away: bool = False
    may: tuple[int, ...] = ()


def limited(kind: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (most, most))


def without_tmp() -> None:
    """A mount namespace whose /tmp, /var/tmp and /dev/shm cannot be written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")
    libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)
    for place in (b"/var/tmp", b"/dev/shm"):
        libc.mount(b"tmpfs", place, b"tmpfs", 1, b"size=4k")


def deleted_folder() -> None:
    gone = Path(os.environ.get("GONE") or "/tmp/llx-gone") / str(os.getpid())
    gone.mkdir(parents=True)
    os.chdir(gone)
    gone.rmdir()


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def as_nobody() -> None:
    """A user namespace in which this user has a number that no passwd file knows."""
    own = os.getuid()
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {own} 1")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
SURROUNDINGS = (
    Surrounding("as usual"),
    Surrounding("an ASCII terminal", ASCII),
    Surrounding("the C locale", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Surrounding("no HOME", {"HOME": None, "XDG_STATE_HOME": None, "XDG_CACHE_HOME": None}),
    Surrounding(
        "no HOME and a user without passwd entry",
        {"HOME": None, "XDG_STATE_HOME": None, "XDG_CACHE_HOME": None, "USER": None},
        inside=as_nobody,
    ),
    Surrounding("a HOME that is not there", {"HOME": "/nonexistent/home", "XDG_STATE_HOME": None}),
    Surrounding("a HOME that is a file", {"HOME": "/dev/null", "XDG_STATE_HOME": None}),
    Surrounding("a relative HOME", {"HOME": "relative", "XDG_STATE_HOME": None}),
    Surrounding("a state folder that is a file", {"XDG_STATE_HOME": "/dev/null"}),
    Surrounding("a state folder on a full disk", {"XDG_STATE_HOME": "/dev/full"}),
    Surrounding("a cache folder that is a file", {"XDG_CACHE_HOME": "/dev/null"}),
    Surrounding("no TMPDIR", {"TMPDIR": "/nonexistent/tmp"}),
    Surrounding("no place for temporary files", {"TMPDIR": "/nonexistent"}, inside=without_tmp),
    Surrounding("800 MB of addresses", inside=limited(resource.RLIMIT_AS, 800 << 20)),
    Surrounding("3 GB of addresses", inside=limited(resource.RLIMIT_AS, 3 << 30)),
    Surrounding("60 MB of memory", inside=limited(resource.RLIMIT_DATA, 60 << 20)),
    Surrounding("300 MB of memory", inside=limited(resource.RLIMIT_DATA, 300 << 20)),
    Surrounding("32 open files", inside=limited(resource.RLIMIT_NOFILE, 32)),
    Surrounding("16 open files", inside=limited(resource.RLIMIT_NOFILE, 16)),
    Surrounding("files of 10 kB", inside=limited(resource.RLIMIT_FSIZE, 10_000)),
    Surrounding("files of nothing", inside=limited(resource.RLIMIT_FSIZE, 0)),
    Surrounding("a small stack", inside=limited(resource.RLIMIT_STACK, 512 << 10)),
    Surrounding("a folder that is gone", inside=deleted_folder, away=True),
    Surrounding("no stdin", inside=closed(0)),
    Surrounding("no stdout", inside=closed(1)),
    Surrounding("no stderr", inside=closed(2)),
    Surrounding("no streams", inside=lambda: [os.close(n) for n in (0, 1, 2)] and None),
    Surrounding("a full stdout", streams={"stdout": "/dev/full"}),
    Surrounding("a full stderr", streams={"stderr": "/dev/full"}),
    Surrounding("a reader that has gone", streams={"stdout": "broken"}, may=(141,)),
    Surrounding("one column", {"COLUMNS": "1", "LINES": "1"}),
    Surrounding("absurd columns", {"COLUMNS": "10" * 20}),
    Surrounding("columns that are none", {"COLUMNS": "x", "LINES": "-3"}),
    Surrounding("no TERM", {"TERM": None}),
    Surrounding("a dumb terminal without colours", {"TERM": "dumb", "NO_COLOR": "1"}),
    Surrounding("a huge environment", {f"HUGE{i}": "x" * 100_000 for i in range(15)}),
    Surrounding("an odd time zone", {"TZ": "Nowhere/Land"}),
    Surrounding("no time zone", {"TZ": ""}),
    Surrounding("an environment that is not UTF-8", {"ODD": os.fsdecode(LATIN1)}),
    Surrounding("names that are not UTF-8", odd_names=True),
    Surrounding("odd thread counts", {"OMP_NUM_THREADS": "x"}),
    Surrounding("no search path", {"PATH": None}),
    Surrounding("optimized Python", {"PYTHONOPTIMIZE": "2"}),
)


def child(arguments: list[str], around: Surrounding, cwd: Path) -> Ended | None:
    """Run llx and say how it ended: code None for a hang, negative for a signal.

    None where this machine does not allow such a surrounding, such as namespaces.
    """
    usual = {
        "HOME": str(cwd / "home"),
        "XDG_STATE_HOME": str(cwd / "state"),
        "PATH": os.environ["PATH"],
        "TERM": "xterm",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LC_ALL": "C.utf8",
    }
    environment = {k: v for k, v in {**usual, **around.changes}.items() if v is not None}
    (cwd / "home").mkdir(exist_ok=True)

    def inside() -> None:
        os.setsid()
        if around.inside:
            around.inside()

    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    opened = []
    for name, target in around.streams.items():
        if target == "broken":
            reads, writes = os.pipe()
            os.close(reads)
            opened.append(writes)
        else:
            opened.append(os.open(target, os.O_WRONLY))
        streams[name] = opened[-1]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "llx", *arguments],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            preexec_fn=inside,  # noqa: PLW1509  # the child is our own, and no other thread runs
            **streams,
        )
    except subprocess.SubprocessError:
        return None
    finally:
        for number in opened:
            os.close(number)
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return Ended(None, "", "")
    texts = ((text or b"").decode(errors="surrogateescape") for text in (out, err))
    return Ended(process.returncode, *texts)


def fault_of(ended: Ended, around: Surrounding) -> str | None:
    """What must never happen, wherever a command is started; None where all is as it should be."""
    lines = ended.err.splitlines()
    last = lines[-1:]
    if ended.code is None:
        return f"no end within {LIMIT_S:.0f} s"
    if ended.code not in (0, 1, 2, 3, *around.may):
        return f"exit {ended.code}: {' '.join(last)}"
    if "Traceback" in ended.err or "panicked" in ended.err or "Exception ignored" in ended.err:
        return f"exit {ended.code} with a traceback: {' '.join(last)}"
    strange = [line for line in lines if not line.startswith("llx: ")]
    if strange:
        return f"exit {ended.code}, and said {strange[0]!r} and {len(strange) - 1} more"
    silent = around.name in ("no stderr", "no streams", "a full stderr")
    if ended.code in (2, 3) and len(lines) != 1 and not silent:
        return f"exit {ended.code} in {len(lines)} lines: {lines[:3]}"
    return None
