"""The command `llx`, and `python -m llx`: runs a command and turns errors into exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from llx.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_LACKING, LlxError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main() -> None:
    """Run the command line. Every error is one line on stderr, and its exit code."""
    sys.exit(_run())


def _run() -> int:
    import typer

    from llx.cli import app

    # What a terminal's encoding lacks is shown as its code, and ends no command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

    # Newer typers carry a click of their own: the base of a public class is the right one in all.
    usage_error = typer.BadParameter.__mro__[1]
    try:
        code = app(prog_name="llx", standalone_mode=False)
    except LlxError as error:
        return _fail(str(error), error.exit_code)
    except typer.Exit as done:
        code = done.exit_code  # 130 where typer has caught Ctrl-C itself
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        return _fail_on_system(error)
    except Exception as error:
        if isinstance(error, usage_error):
            return _fail_on_usage(error)
        sys.excepthook(*sys.exc_info())
        said = "please report the lines above, with the file that `llx doctor --bundle` writes"
        return _fail(f"this is a bug of llx: {said}", EXIT_BUG)
    if code == EXIT_INTERRUPTED:
        return _fail("interrupted; nothing was left half-written", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"llx: {message}", file=sys.stderr)
    return code


def _fail_on_usage(error: Any) -> int:
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "llx"
    return _fail(f"{message}: see `{command} --help`", EXIT_BAD_INPUT)


def _fail_on_system(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        remedy = "free space, or choose another -o" if where else "free space where output goes"
        return _fail(f"{where}the disk is full: {remedy}", EXIT_LACKING)
    remedy = "check the path and its permissions"
    return _fail(f"{where}{error.strerror or error}: {remedy}", EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
