"""A conversation in a terminal, or with the two ends of a pipe."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

from llx import interrupts
from llx.bench.conversation import Conversation
from llx.bench.generate import Turn
from llx.errors import BadInput
from llx.reports.console import warn
from llx.reports.plain import spoken
from llx.reports.terminal import remark
from llx.reports.units import counted, significant

PROMPT = "> "
HINT = "/exit or Ctrl-D ends, /reset begins anew"


def talk(conversation: Conversation) -> None:
    """Ask what is typed or piped in, a line each, until there is no more.

    In a terminal a question that cannot be asked is said, and the next is waited for; in a pipe it
    ends the program, as any error.
    """
    is_terminal = sys.stdin.isatty()
    for question in questions(is_terminal):
        if question.strip() == "/reset":
            conversation.reset()
            remark("the conversation begins anew")
            continue
        try:
            _answer(conversation, question, is_terminal)
        except BadInput as error:
            if not is_terminal:
                raise
            warn(str(error))
    if conversation.turns:
        remark(summary(conversation.turns))


def questions(is_terminal: bool) -> Iterator[str]:
    """Lines of standard input that are not empty, up to its end or `/exit`."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is refused as such
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # `input` edits lines with it
        remark(HINT)
    while True:
        try:
            line = _line(is_terminal)
        except EOFError:
            if is_terminal:
                _shown("\n")
            return
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            interrupts.answer()  # it has ended the line that was being typed, and nothing else
            _shown("\n")
            remark(HINT)
            continue
        if line.strip() == "/exit":
            return
        if line.strip():
            yield line


def _line(is_terminal: bool) -> str:
    """The next line. Raises `EOFError` where there is none."""
    if is_terminal and sys.stdout.isatty():
        return input(PROMPT)
    if is_terminal:  # answers go elsewhere, and must not be mixed with prompts
        print(PROMPT, end="", file=sys.stderr, flush=True)
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\r\n")


def _answer(conversation: Conversation, question: str, is_terminal: bool) -> None:
    """Print an answer as it comes. In a terminal Ctrl-C ends it, and not the program."""
    before = len(conversation.turns)
    if is_terminal:
        with interrupts.Remembered() as stopped:
            _print(conversation.ask(question, stopped=stopped))
    else:
        _print(conversation.ask(question))
    for turn in conversation.turns[before:]:
        filled = f"cache {len(conversation.cached)}/{conversation.capacity}"
        remark(f"{turn_words(turn)}, {filled}")


def _print(pieces: Iterator[str]) -> None:
    try:
        for piece in pieces:
            _shown(spoken(piece))
    finally:
        _shown("\n")


def _shown(text: str) -> None:
    print(text, end="", flush=True)


CUT = {
    "most tokens": "cut at -n",
    "full cache": "cut",
    "stopped": "stopped",
    "stop text": "",
    "end token": "",
}


def turn_words(turn: Turn) -> str:
    """What an answer took, in a line."""
    speed = f"{significant(turn.tok_per_s, 3)} tok/s, " if turn.tok_per_s else ""
    cut = f", {CUT[turn.ended]}" if CUT[turn.ended] else ""
    return (
        f"{counted(len(turn.tokens), 'token')}{cut}, {speed}"
        f"TTFT {significant(turn.ttft_ns / 1e6, 3)} ms for {turn.prefilled} new"
    )


def summary(turns: list[Turn]) -> str:
    """What all answers took, in a line."""
    tokens, decoded = sum(len(turn.tokens) for turn in turns), sum(turn.decoded for turn in turns)
    decode_s = sum(turn.decode_ns for turn in turns) / 1e9
    speed = f", {significant(decoded / decode_s, 3)} tok/s" if decode_s else ""
    ttft_ms = sorted(turn.ttft_ns / 1e6 for turn in turns)[len(turns) // 2]
    name = "TTFT" if len(turns) == 1 else "median TTFT"
    return (
        f"{counted(len(turns), 'answer')}, {counted(tokens, 'token')}{speed}, "
        f"{name} {significant(ttft_ms, 3)} ms"
    )
