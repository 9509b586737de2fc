"""The command `llx`, and `python -m llx`: runs a command and turns errors into exit codes."""

from __future__ import annotations

import errno
import os
import sys

from llx.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_LACKING, LlxError

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line. Every error is one line on stderr, and its exit code."""
    sys.exit(_run())


def _run() -> int:
    import click

    from llx.cli import app

    try:
        code = app(prog_name="llx", standalone_mode=False)
    except LlxError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as usage:
        return _fail(f"{usage.format_message()} See `llx --help`.", EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted; nothing was left half-written", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BAD_INPUT
    except OSError as error:
        return _fail_on_system(error)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return _fail("this is a bug of llx: please report the lines above", EXIT_BUG)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"llx: {message}", file=sys.stderr)
    return code


def _fail_on_system(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return _fail(f"{where}the disk is full: free space, or choose another -o", EXIT_LACKING)
    remedy = "check the path and its permissions"
    return _fail(f"{where}{error.strerror or error}: {remedy}", EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
