"""Work in a process of its own: no crash reaches the caller, and its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from llx.errors import EXIT_BUG, EXIT_GATE_FAILED, LlxError
from llx.progress import Progress
from llx.refused import refused
from llx.streams import quiet_libraries

POLL_S = 0.5
# Signals by which a program ends that has gone wrong itself (signal(7)), and what others mean.
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGTRAP", "SIGSYS")
USUALLY = {
    "SIGKILL": "as the kernel does where memory runs out",
    "SIGILL": "an instruction that this processor has not",
    "SIGTERM": "as whoever stops it does",
    "SIGHUP": "as a terminal that is closed does",
    "SIGXCPU": "a limit on its processor time",
}

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Variables for what is started or loaded within it, then all as before. None: not set."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class ProcessDied(LlxError):
    """A process ended without an answer: a crash of what it ran, a kill, or a bug of ours."""

    exit_code = EXIT_BUG


class TimedOut(LlxError):
    """A process had no answer in the time that it was given, and was killed."""

    exit_code = EXIT_GATE_FAILED


def in_own_process(
    work: Callable[[Job, Progress], Answer],
    job: Job,
    progress: Progress,
    what: str,
    remedy: str,
    limit_s: float | None = None,
) -> Answer:
    """Call `work(job, progress)` in a process of its own and return its answer.

    `work` is a function of a module; job and answer are pickled. An `LlxError` that it raises is
    raised here; where the process dies, `ProcessDied` says `what` died, how, and the `remedy`;
    where it takes longer than `limit_s` it is killed, and `TimedOut` says so.
    """
    process = OwnProcess(work, job, what, remedy, limit_s)
    try:
        while not process.ended:
            process.listen(progress, POLL_S)
    finally:
        process.end()
    return process.answer()


class OwnProcess(Generic[Job, Answer]):
    """A process that works on one job, for who waits for several: `in_own_process` in parts.

    `if_late`: the remedy where it is stopped at its limit, if that is another.
    """

    def __init__(
        self,
        work: Callable[[Job, Progress], Answer],
        job: Job,
        what: str,
        remedy: str,
        limit_s: float | None = None,
        if_late: str | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._what, self._remedy, self._limit_s = what, remedy, limit_s
        self._if_late = if_late or remedy
        self._messages: Queue[Any] = context.Queue()
        self._process = context.Process(target=_run, args=(work, job, self._messages), daemon=True)
        self._answer: Answer | None = None
        self._error: LlxError | None = None
        self.ended = False
        with _uninterrupted(), _without_main():
            self._process.start()
        self._started = time.monotonic()

    def listen(self, progress: Progress, wait_s: float) -> None:
        """Take the next message, waiting for one at most so long: news, the answer, or an end."""
        if self._limit_s is not None and time.monotonic() - self._started > self._limit_s:
            late = f"{self._what} had no end after {self._limit_s:.0f} s and was stopped"
            self._finish(error=TimedOut(late, self._if_late))
            return
        alive = self._process.is_alive()  # asked first: its last words may be on their way
        try:
            kind, content = self._messages.get(timeout=wait_s)
        except queue.Empty:
            if not alive:
                how = how_it_ended(self._process.exitcode)
                remedy = what_mends(self._process.exitcode, self._remedy)
                died = ProcessDied(f"the process of {self._what} {how}", remedy)
                self._finish(error=died)
            return
        if kind == "news":
            progress(*content)
        elif kind == "answer":
            self._finish(answer=content)
        else:
            self._finish(error=content)

    def answer(self) -> Answer:
        """What the work returned; raises what it raised, or why there is neither."""
        if self._error is not None:
            raise self._error
        assert self.ended
        return self._answer  # type: ignore[return-value]  # an answer may itself be None

    def _finish(self, answer: Answer | None = None, error: LlxError | None = None) -> None:
        self._answer, self._error, self.ended = answer, error, True

    def end(self) -> None:
        """See that it is gone: it has answered, or is not wanted any more."""
        if not self.ended or isinstance(self._error, TimedOut):
            self._process.kill()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()


def how_it_ended(exitcode: int | None) -> str:
    """An exit code in words: a signal by its name, and what it usually means."""
    if exitcode is None or exitcode >= 0:
        return f"ended with {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    usually = "a crash of the runtime" if name in CRASHES else USUALLY.get(name)
    return f"was ended by {name}, {usually}" if usually else f"was ended by {name}"


def what_mends(exitcode: int | None, if_killed: str) -> str:
    """The remedy that fits how a process ended: `if_killed` where memory may have run out."""
    try:
        name = signal.Signals(-(exitcode or 0)).name
    except ValueError:
        name = ""
    if name == "SIGKILL":
        return if_killed
    if name in ("SIGTERM", "SIGHUP", "SIGINT"):
        return "run it again, and leave it to its end"
    above = "see what it said above; where that is no help"
    return f"{above}, report it with the file that `llx doctor --bundle` writes"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What starts here ignores Ctrl-C, which a terminal sends to all: the caller answers it.

    Only the main thread may say so; what another one starts answers Ctrl-C by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _without_main() -> Iterator[None]:
    """What starts here does not import the caller's script, as `spawn` would.

    A script without `if __name__ == "__main__":` would run again in every process, and so start
    others; a notebook has none. All that a process works on are functions of modules of ours.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(work: Callable[[Any, Progress], Any], job: Any, messages: Queue[Any]) -> None:
    """The body of the process."""
    quiet_libraries()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        messages.put(("answer", work(job, lambda *news: messages.put(("news", news)))))
    except LlxError as error:
        messages.put(("error", error))
    except Exception as error:
        if known := refused(error):
            messages.put(("error", known))
            return
        sys.excepthook(*sys.exc_info())
        messages.close()
        messages.join_thread()
        sys.exit(EXIT_BUG)


def _end_with_parent() -> None:
    """Whatever ended the parent, nothing works on and disturbs the next measurement."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(EXIT_BUG)


def peak_host_bytes() -> int | None:
    """Largest resident memory of this process so far, or None where the system does not tell.

    Linux's VmHWM begins anew with each program. The maximum of getrusage(2) does not: a process
    inherits that of the one which started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
