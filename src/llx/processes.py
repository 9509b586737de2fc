"""Work in a process of its own: no crash reaches the caller, and its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

from llx.errors import EXIT_BUG, LlxError
from llx.progress import Progress

POLL_S = 0.5

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class ProcessDied(LlxError):
    """A process ended without an answer: a crash of what it ran, or a bug of ours."""

    exit_code = EXIT_BUG


def in_own_process(
    work: Callable[[Job, Progress], Answer], job: Job, progress: Progress, what: str, remedy: str
) -> Answer:
    """Call `work(job, progress)` in a process of its own and return its answer.

    `work` is a function of a module; job and answer are pickled. An `LlxError` that it raises is
    raised here; where the process dies, `ProcessDied` says `what` died and the `remedy`.
    """
    context = multiprocessing.get_context("spawn")
    messages: Queue[Any] = context.Queue()
    process = context.Process(target=_run, args=(work, job, messages), daemon=True)
    with _uninterrupted():
        process.start()
    try:
        while True:
            ended = not process.is_alive()  # asked first: its last words may be on their way
            try:
                kind, content = messages.get(timeout=POLL_S)
            except queue.Empty:
                if ended:
                    raise ProcessDied(
                        f"the process of {what} ended with {process.exitcode}", remedy
                    ) from None
                continue
            if kind == "answer":
                answer: Answer = content
                return answer
            if kind == "error":
                raise content
            progress(*content)
    except KeyboardInterrupt:
        process.kill()
        raise
    finally:
        process.join(timeout=10)
        if process.is_alive():
            process.kill()


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
