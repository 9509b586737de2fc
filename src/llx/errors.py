"""What can go wrong, and the exit code that says so.

Every error that a user can cause is an `LlxError`: one line with what happened and what mends it.
Anything else that reaches the command line is a bug of ours and exits with `EXIT_BUG`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
from functools import cache

EXIT_DONE = 0
EXIT_GATE_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_LACKING = 3
EXIT_BUG = 70


def printable(text: str) -> str:
    """One line that moves no cursor: names in files are untrusted, and errors show them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class LlxError(Exception):
    """An error with its remedy, each one line. Raise one of the subclasses."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, remedy: str) -> None:
        message, remedy = printable(message), printable(remedy)
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"

    def __reduce__(self) -> tuple[type[LlxError], tuple[str, str]]:
        # Errors cross from the process of an engine to the harness.
        return type(self), (self.message, self.remedy)


class BadInput(LlxError):
    """What was typed, or a file that was named, cannot be used. Exit code 2."""

    exit_code = EXIT_BAD_INPUT


class NotExported(BadInput):
    """The artifact has no such file: its checkpoint had none, or it was exported without.

    Exit code 2. Another machine has it no more than this one, so it is not `Lacking`.
    """


class GateFailed(LlxError):
    """Everything ran, and a check did not hold. Exit code 1."""

    exit_code = EXIT_GATE_FAILED


class Lacking(LlxError):
    """This machine lacks what was asked for: a package, a driver, a checkpoint. Exit code 3."""

    exit_code = EXIT_LACKING


def one_line(why: object, most: int = 200) -> str:
    """An error of another library, or its words, on one line, not too long a one."""
    words = printable(" ".join(str(why).split())) or type(why).__name__
    return words if len(words) <= most else words[: most - 1] + "…"


def utf8(text: str) -> str:
    """Text that JSON can hold: of a file name, bytes that are not UTF-8 become their codes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_installed(module: str) -> bool:
    """Whether a module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def require_modules(purpose: str, extra: str, *modules: str) -> None:
    """Raise `Lacking` where a module that an extra of llx brings is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Lacking(
            f"{purpose} needs {' and '.join(missing)}, not installed here",
            to_install(extra),
        )


@cache
def to_install(extra: str) -> str:
    """What installs the packages of an extra of llx.

    By their own names: in the public index that of llx is another project's.
    """
    try:
        declared = importlib.metadata.requires("llx") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources, not installed
        return f"install the packages of the extra {extra} in llx's pyproject.toml"
    of_extra = re.compile(rf"extra == ['\"]{extra}['\"]")
    wanted = [line.partition(";")[0].strip() for line in declared if of_extra.search(line)]
    return f"pip install {' '.join(map(shlex.quote, wanted))}"
