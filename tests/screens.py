"""A terminal for tests: what a command leaves on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

import pyte


def screen_of(data: bytes, columns: int, lines: int = 40) -> list[str]:
    """What stands on a terminal, with what has scrolled out of it, once it was given this."""
    screen = pyte.HistoryScreen(columns, lines, history=10_000)
    pyte.ByteStream(screen).feed(data)
    gone = ["".join(row[i].data for i in range(columns)) for row in screen.history.top]
    return [line.rstrip() for line in (*gone, *screen.display)]


def run_in_terminal(
    arguments: Sequence[str], columns: int, lines: int = 40, **variables: str
) -> tuple[int, list[str]]:
    """Run `llx` with both of its streams in a terminal: its exit code, and its screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "llx", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm-256color"} | variables,
    ) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the last who could write has closed it
                break
            if not part:
                break
            data += part
    os.close(ours)
    return process.returncode, screen_of(data, columns, lines)


def unwrapped(screen: Sequence[str], columns: int) -> str:
    """The screen as one text, in which a line that the terminal has folded is whole again."""
    return "".join(line.ljust(columns) if len(line) == columns else f"{line}\n" for line in screen)
