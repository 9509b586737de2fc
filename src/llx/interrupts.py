"""Ctrl-C on the command line: one line and exit code 130, whenever it is pressed.

Raised inside a library's import or a callback, a `KeyboardInterrupt` becomes another exception, or
is printed and lost: that it was pressed is remembered, and the command line asks.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # this is imported before all else, and `typing` takes its time
if TYPE_CHECKING:
    from typing import Any

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_pressed = False


def answer() -> None:
    """Answer Ctrl-C from now on, unless whoever started this process had it ignored."""
    global _pressed  # noqa: PLW0603  # a signal's handler has no other place to write to
    _pressed = False
    if _install(_raise):
        sys.unraisablehook = _unraisable


def pressed() -> bool:
    """Whether it was pressed since `answer`: whatever went wrong after it is no fault."""
    return _pressed


def end_quietly() -> None:
    """All is done, and the interpreter is about to end: from now on Ctrl-C only ends it sooner."""
    _install(lambda *_: os._exit(EXIT_INTERRUPTED))


def _install(handler: Any) -> bool:
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    try:
        if not ignored:
            signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread, which Ctrl-C does not reach
        return False
    return not ignored


def _raise(*_: object) -> None:
    global _pressed  # noqa: PLW0603
    _pressed = True
    raise KeyboardInterrupt


def _unraisable(told: Any) -> None:
    """Where nothing can be raised, such as in `__del__`, raise it again at the next chance."""
    if told.exc_type is KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
    elif not _pressed:
        sys.__unraisablehook__(told)
