"""`llx chat` at the two ends of a pipe, and at a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace

import pytest

from tests.checkpoints import TINY
from tests.conftest import export_tiny
from tests.screens import screen_of

LONG = "tell " * 120


@pytest.fixture
def piped(llx, monkeypatch):
    """Run `llx` with lines on its standard input."""

    def run(typed, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return llx(*arguments)

    return run


def test_each_line_of_a_pipe_is_a_question_and_no_prompt_is_printed(piped, tiny):
    ended = piped("a\n\nb", "chat", tiny.folder, "--engine", "torch", "-n", "2")
    assert (ended.code, ended.stderr) == (0, "")
    first = piped("a\n", "chat", tiny.folder, "--engine", "torch", "-n", "2")
    assert ended.stdout.startswith(first.stdout)
    assert ended.stdout.count("\n") >= 2
    assert "> " not in first.stdout


def test_reset_begins_anew_and_exit_ends(piped, tiny):
    arguments = ("chat", tiny.folder, "--engine", "torch", "-n", "3")
    once = piped("a\n", *arguments).stdout
    assert piped("a\n/reset\na\n/exit\nb\n", *arguments).stdout == 2 * once
    assert piped("a\na\n", *arguments).stdout != 2 * once


def test_a_question_of_a_pipe_that_does_not_fit_ends_it_in_a_line(piped, tiny):
    ended = piped(f"a\n{LONG}\nb\n", "chat", tiny.folder, "--engine", "torch", "-n", "2")
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "begin anew with /reset, since the model itself knows no more positions" in ended.stderr


@pytest.mark.parametrize(
    ("typed", "arguments", "words"),
    [
        ("a\udcff\n", (), "not UTF-8"),
        ("a\n", ("--stop", ""), "--stop"),
        ("a\n", ("--top-k", "-1"), "--top-k"),
        ("a\n", ("--repetition-penalty", "0"), "--repetition-penalty"),
        ("a\n", ("--date", "soon"), "--date"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(piped, tiny, typed, arguments, words):
    ended = piped(typed, "chat", tiny.folder, "--engine", "torch", *arguments)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr


def test_what_a_model_says_is_no_command_to_a_terminal(piped, tiny, monkeypatch):
    hostile = "\x1b]0;title\x07\u202ea\n\tb"
    monkeypatch.setattr("llx.bench.generate.PieceDecoder.step", lambda *_: hostile)
    out = piped("a\n", "chat", tiny.folder, "--engine", "torch", "-n", "1").stdout
    assert out.strip() == "\\x1b]0;title\\x07\\u202ea\n\tb"


class Terminal:
    """`llx chat` at a terminal of its own, as somebody sees it."""

    def __init__(self, *arguments):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}

        def own():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "llx", "chat", *map(str, arguments)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env=known | {"TERM": "xterm-256color"},
            preexec_fn=own,  # noqa: PLW1509  # no other thread runs here
        )
        os.close(theirs)
        self.ours, self.data = ours, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def see(self, words, after=0):
        """Wait for words on the terminal, behind what was seen before: where they end."""
        end = time.monotonic() + 120
        while (at := self.data.find(words, after)) < 0:
            assert time.monotonic() < end, self.data
            if select.select([self.ours], [], [], 0.2)[0]:
                self.data += os.read(self.ours, 1 << 16)
        return at + len(words)

    def type(self, data):
        os.write(self.ours, data)

    def press_until(self, data, words, after):
        """Press again what came in the moment between Python's code and readline's waiting."""
        for _ in range(24):
            if words in self.data[after:]:
                break
            self.type(data)
            end = time.monotonic() + 5
            while words not in self.data[after:] and time.monotonic() < end:
                if select.select([self.ours], [], [], 0.2)[0]:
                    self.data += os.read(self.ours, 1 << 16)
        return self.see(words, after)

    def end(self):
        """Its exit code and its screen, once it has ended."""
        while True:
            try:
                part = os.read(self.ours, 1 << 16)
            except OSError:
                break
            self.data += part
        os.close(self.ours)
        return self.process.wait(60), screen_of(self.data, 80)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A model that talks for as long as it may."""
    return export_tiny(tmp_path_factory.mktemp("roomy"), spec=replace(TINY, context=512))


def test_at_a_terminal_ctrl_c_ends_the_line_or_the_answer_and_ctrl_d_the_program(roomy, tmp_path):
    slow = tmp_path / "sitecustomize.py"
    slow.write_text(
        "import llx.bench.generate as g, time\n"
        "real = g._one\n"
        "def _one(*a):\n    time.sleep(0.3)\n    return real(*a)\n"
        "g._one = _one\n"
    )
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        seat = Terminal(roomy.folder, "--engine", "torch", "-n", "60")
    finally:
        del os.environ["PYTHONPATH"]
    with seat:
        at = seat.see(b"> ", seat.see(b"Ctrl-D ends"))
        seat.type(b"half of a li")
        at = seat.see(b"half of a li", at)
        at = seat.see(b"> ", seat.press_until(b"\x03", b"Ctrl-D ends", at))
        seat.type(b"a\n")
        at = seat.see(b"\n", at)
        time.sleep(2)
        seat.type(b"\x03")
        at = seat.see(b"stopped", at)
        at = seat.see(b"> ", at)
        seat.type(LONG.encode() + b"\n")
        at = seat.see(b"/reset", seat.see(b"llx: ", at))
        at = seat.see(b"> ", at)
        seat.type(b"/reset\n")
        at = seat.see(b"> ", seat.see(b"begins anew", seat.see(b"/reset", at)))
        seat.type(b"\x04")
        code, screen = seat.end()
    assert code == 0
    assert any(line.startswith("1 answer, ") and "TTFT" in line for line in screen)


def test_a_line_can_be_edited_and_asked_again(roomy):
    with Terminal(roomy.folder, "--engine", "torch", "-n", "2") as seat:
        at = seat.see(b"> ", seat.see(b"Ctrl-D ends"))
        seat.type(b"/rsset\x1b[D\x1b[D\x1b[D\x7fe\n")  # three to the left, rub one out
        at = seat.see(b"> ", seat.see(b"begins anew", at))
        seat.type(b"\x1b[A\n")  # the line before
        at = seat.see(b"> ", seat.see(b"begins anew", at))
        seat.type(b"/exit\n")
        assert seat.end()[0] == 0
