"""What a process is born with, such that no command fails for it: standard streams, a home."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings

NO_HOME = f"{os.devnull}/no-home"  # where nothing can be kept, by nobody


def prepare() -> None:
    """Make of the standard streams and of the home what commands can work with.

    One that whoever started this process has closed leads nowhere: else the next file that is
    opened would take its number, and what a library prints would go into that. What a terminal's
    encoding lacks is shown as its code. A user without a home has one where nothing can be kept.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if not _is_open(number):
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    if os.path.expanduser("~") == "~":  # libraries fail where a user has neither HOME nor an entry
        os.environ["HOME"] = NO_HOME
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Keep to themselves what libraries warn developers of, unless they were asked for it (-W)."""
    if not sys.warnoptions:
        warnings.showwarning = lambda *_, **__: None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def print_data(text: str) -> None:
    """Print what programs read: in UTF-8, whatever the terminal's encoding is."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        stream.buffer.flush()
    else:  # a notebook's, or a test's
        stream.write(text)


def tell(line: str) -> None:
    """A line on stderr, if anybody can be told."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _lead_nowhere(2)


def flush_or_give_up() -> None:
    """Write out what was printed, or give it up where that fails: it would be tried at the end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        give_up_output()


def give_up_output() -> None:
    """Lead stdout nowhere: what is left of it cannot be written."""
    _lead_nowhere(1)


def _lead_nowhere(number: int) -> None:
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
