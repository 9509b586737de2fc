"""What a process is born with, such that no command fails for it: standard streams, a home."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import warnings

# What stands for signs of ours where a terminal's encoding has none; others are shown as codes.
STAND_INS = {
    **{"±": "+-", "…": "...", "×": "x", "·": "*", "→": "->", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"–": "-", "—": "-", "−": "-", "‑": "-", "━": "-", "╸": "-", "╺": "-", "─": "-"},
    **{"√": "sqrt ", "²": "^2", "µ": "u", "μ": "u", "‖": "||", "∞": "inf", "’": "'", "‘": "'"},
    **{"“": '"', "”": '"', "•": "*", "↓": "v", "↑": "^", "Δ": "d", "≠": "!="},
    **{"ε": "eps", "θ": "theta", "σ": "s"},
}
LOSSY = "llx.stand-ins"  # the name of the handler of encoding errors

NO_HOME = f"{os.devnull}/no-home"  # where nothing can be kept, by nobody


def prepare() -> None:
    """Make of the standard streams and of the home what commands can work with.

    One that whoever started this process has closed leads nowhere: else the next file that is
    opened would take its number, and what a library prints would go into that. What a terminal's
    encoding lacks is shown in ASCII, or as its code. A user without a home has one where nothing
    can be kept.
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
    codecs.register_error(LOSSY, _stand_ins)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=LOSSY)


def _stand_ins(error: UnicodeError) -> tuple[str, int]:
    """A handler of encoding errors, as `codecs.register_error` has them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    told = (STAND_INS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(told), error.end


def fitting(text: str) -> str:
    """A text as stdout will show it, so that a table can be laid out by its widths."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors == LOSSY:
        return text.encode(stream.encoding, LOSSY).decode(stream.encoding)
    return text


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
