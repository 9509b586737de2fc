"""Ctrl-C on the command line: one line and exit code 130, whenever it is pressed.

Raised inside a library's callback, a `KeyboardInterrupt` becomes another exception, or is printed
and lost: that it was pressed is remembered, and the command line asks. Raised inside an import it
can end the process: PyTorch's C++ calls Python while it is loaded, and aborts where that raises. So
an import is waited for.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # this is imported before all else, and `typing` takes its time
if TYPE_CHECKING:
    from typing import Any

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
IMPORT_S = 0.02  # how often a process that is importing is asked whether it still is

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


class Remembered:
    """Within it the first Ctrl-C is remembered and ends nothing: whoever works asks by calling it.

    The second ends the program as ever. Nothing is interrupted in the middle of an engine's step,
    which might not be able to go on from there.
    """

    def __init__(self) -> None:
        self._told = False

    def __call__(self) -> bool:
        """Whether it was pressed."""
        return self._told

    def __enter__(self) -> Remembered:
        self._before: Any = signal.getsignal(signal.SIGINT)
        self._installed = _install(self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, number: int, frame: Any) -> None:
        if self._told:
            _raise(number, frame)
        self._told = True


def end_quietly() -> None:
    """All is done, and the interpreter is about to end: from now on Ctrl-C only ends it sooner."""
    _install(lambda *_: os._exit(EXIT_INTERRUPTED))
    if _pressed:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _install(handler: Any) -> bool:
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    try:
        if not ignored:
            signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread, which Ctrl-C does not reach
        return False
    return not ignored


def _raise(_: int, frame: Any) -> None:
    global _pressed  # noqa: PLW0603
    _pressed = True
    if not _importing(frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, _again)
    signal.setitimer(signal.ITIMER_REAL, IMPORT_S)


def _importing(frame: Any) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _again(*_: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # for a while: a process is started
        signal.setitimer(signal.ITIMER_REAL, IMPORT_S)
    else:
        signal.raise_signal(signal.SIGINT)


def _unraisable(told: Any) -> None:
    """Where nothing can be raised, such as in `__del__`, raise it again at the next chance."""
    if told.exc_type is KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
    elif not _pressed:
        sys.__unraisablehook__(told)
