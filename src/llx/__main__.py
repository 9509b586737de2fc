"""The command `llx`, and `python -m llx`: runs a command and turns errors into exit codes."""

from __future__ import annotations

import os
import sys

from llx import interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_LACKING = 3  # as in llx.errors, which is not imported here
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main() -> None:
    """Run the command line. Every error is one line on stderr, and its exit code."""
    interrupts.answer()  # before anything is imported that takes its time
    try:
        code = _run()
    except KeyboardInterrupt:  # pressed again while the first was answered
        code = interrupts.EXIT_INTERRUPTED
    except MemoryError:  # there is none left to say so with
        os.write(2, b"llx: the memory that this process may have is used up: raise its limit\n")
        os._exit(EXIT_LACKING)
    interrupts.end_quietly()
    sys.exit(code)


def _run() -> int:
    try:
        # With what an error is answered by: where files or memory run out it is too late for that.
        from llx import errors, refused, streams  # noqa: F401

        streams.prepare()
        streams.quiet_libraries()
        from llx.cli import app

        code = app(prog_name="llx", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        return _answer(error)
    if interrupts.pressed() or code == interrupts.EXIT_INTERRUPTED:  # typer may catch it itself
        return _interrupted()
    return code if isinstance(code, int) else 0


def _answer(error: BaseException) -> int:
    """The line and the exit code for what ended a command."""
    if interrupts.pressed() or isinstance(error, KeyboardInterrupt):
        return _interrupted()
    from llx.errors import EXIT_BUG, LlxError
    from llx.refused import refused
    from llx.streams import give_up_output

    if isinstance(error, SystemExit):  # typer's answer to a reader that has gone
        error = error.__context__ or error
    if isinstance(error, BrokenPipeError):
        give_up_output()
        return EXIT_BROKEN_PIPE
    if isinstance(error, LlxError):
        return _fail(str(error), error.exit_code)
    if (answered := _of_typer(error)) is not None:
        return answered
    if known := refused(error):
        return _fail(str(known), known.exit_code)
    sys.excepthook(type(error), error, error.__traceback__)
    return _fail("this is a bug of llx: please report the lines above", EXIT_BUG)


def _of_typer(error: BaseException) -> int | None:
    """The exit code where typer raised it: what was typed is no command, or a command has ended."""
    import typer

    from llx.errors import EXIT_BAD_INPUT, one_line

    if isinstance(error, typer.Exit):
        is_interrupt = error.exit_code == interrupts.EXIT_INTERRUPTED  # typer may catch it itself
        return _interrupted() if is_interrupt else error.exit_code
    if isinstance(error, typer.Abort):
        return _interrupted()
    # Newer typers carry a click of their own: the base of a public class is the right one in all.
    if not isinstance(error, typer.BadParameter.__mro__[1]):
        return None
    told: Any = error
    message = one_line(told.format_message(), 1000).rstrip(".")
    command = told.ctx.command_path if told.ctx else "llx"
    return _fail(f"{message}: see `{command} --help`", EXIT_BAD_INPUT)


def _interrupted() -> int:
    return _fail("interrupted; nothing was left half-written", interrupts.EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> int:
    """Say what went wrong, if anybody can be told."""
    from llx.streams import flush_or_give_up, tell

    flush_or_give_up()
    tell(f"llx: {message}")
    return code


if __name__ == "__main__":
    main()
