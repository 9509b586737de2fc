"""Work in a process of its own: no crash reaches the caller, and its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

from llx.errors import EXIT_BUG, EXIT_LACKING, LlxError
from llx.progress import Progress

POLL_S = 0.5

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class ProcessDied(LlxError):
    """A process ended without an answer: a crash of what it ran, a kill, or a bug of ours."""

    exit_code = EXIT_BUG


class TimedOut(LlxError):
    """A process had no answer in the time that it was given, and was killed."""

    exit_code = EXIT_LACKING


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
    context = multiprocessing.get_context("spawn")
    messages: Queue[Any] = context.Queue()
    process = context.Process(target=_run, args=(work, job, messages), daemon=True)
    with _uninterrupted():
        process.start()
    ends = None if limit_s is None else time.monotonic() + limit_s
    try:
        while True:
            if ends is not None and time.monotonic() > ends:
                raise TimedOut(f"{what} had no end after {limit_s:.0f} s and was stopped", remedy)
            ended = not process.is_alive()  # asked first: its last words may be on their way
            try:
                kind, content = messages.get(timeout=POLL_S)
            except queue.Empty:
                if ended:
                    ending = how_it_ended(process.exitcode)
                    raise ProcessDied(f"the process of {what} {ending}", remedy) from None
                continue
            if kind == "answer":
                answer: Answer = content
                return answer
            if kind == "error":
                raise content
            progress(*content)
    except (KeyboardInterrupt, TimedOut):
        process.kill()
        raise
    finally:
        process.join(timeout=10)
        if process.is_alive():
            process.kill()


def how_it_ended(exitcode: int | None) -> str:
    """An exit code in words: a signal by its name, and what it usually means."""
    if exitcode is None or exitcode >= 0:
        return f"ended with {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    killed = ", as the kernel does where memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{killed}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What starts here ignores Ctrl-C, which a terminal sends to all: the caller answers it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _run(work: Callable[[Any, Progress], Any], job: Any, messages: Queue[Any]) -> None:
    """The body of the process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        messages.put(("answer", work(job, lambda *news: messages.put(("news", news)))))
    except LlxError as error:
        messages.put(("error", error))
    except Exception:
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
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
