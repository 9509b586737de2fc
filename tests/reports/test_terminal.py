"""Lines that are printed while bars are shown stand whole on the screen, and the bars do not."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from llx import streams
from llx.reports import console, terminal
from llx.reports.console import say, show, show_results, simple_table, warn
from llx.reports.terminal import progress_bars
from tests.reports.made import CEILING, RESULT
from tests.screens import run_in_terminal, screen_of, unwrapped


@pytest.fixture(params=(80, 100, 120))
def written(request, monkeypatch):
    """Both streams are one terminal: what was written into it, and how wide it is."""
    there = io.StringIO()
    known = {"file": there, "force_terminal": True, "width": request.param, "height": 12}
    for name in ("STDOUT", "STDERR"):
        made = Console(**known, color_system="truecolor", highlight=False)
        monkeypatch.setattr(terminal, name, made)
        monkeypatch.setattr(console, name, made)
    return there, request.param


def seen(written):
    there, columns = written
    return screen_of(there.getvalue().replace("\n", "\r\n").encode(), columns, 12)


def test_every_line_among_bars_stays_on_the_screen(written):
    lines = [f"parity of engine {i}: logits off by 1.2e-07{'x' * 40 * i}" for i in range(4)]
    with progress_bars() as report:
        for i, line in enumerate(lines):
            report(f"engine {i}", 0, 2, "step")
            report(f"engine {i}", 1, 2, "step")
            say(line)
            report(f"engine {i}", 2, 2, "step")
        warn("a line of stderr")
        show(simple_table("a table", ("one", "other"), [("its first", "row")]))
    screen = seen(written)
    for line in (*lines, "llx: a line of stderr", "its first  row"):
        assert line in unwrapped(screen, written[1])
    assert not [line for line in screen if line.startswith("engine ")], "bars stay"


def test_the_log_of_a_ci_job_has_a_line_a_minute(capsys):
    clock = [0.0]
    report = terminal._log_lines("mine: ", lambda: clock[0])
    for done in range(20):
        report("tg8", done, 20, "run")
        clock[0] += 25
    clock[0] += 60
    report("weights", 3 << 20, 8 << 20, "B")
    assert capsys.readouterr().err.splitlines() == [
        "llx: mine: tg8: 3 of 20 runs, at most 7 min more",
        "llx: mine: tg8: 6 of 20 runs, at most 6 min more",
        "llx: mine: tg8: 9 of 20 runs, at most 5 min more",
        "llx: mine: tg8: 12 of 20 runs, at most 3 min more",
        "llx: mine: tg8: 15 of 20 runs, at most 2 min more",
        "llx: mine: tg8: 18 of 20 runs, at most 50 s more",
        "llx: mine: weights: 3.0 MiB of 8.0 MiB",
    ]


def test_bars_are_lines_where_stderr_is_a_log_of_ci_and_nothing_where_it_is_a_pipe(monkeypatch):
    monkeypatch.setattr(terminal, "STDERR", Console(file=io.StringIO()))
    for ci, silent in (("", True), ("true", False)):
        monkeypatch.setenv("CI", ci)
        with progress_bars() as report:
            assert (report is terminal.silent) == silent


def test_bars_of_more_work_than_the_screen_has_lines_go_as_well(written):
    with progress_bars() as report:
        for i in range(40):
            report(f"engine {i}", 1, 1, "step")
        say("a line")
        for i in range(40):
            report(f"engine {i}", 1, 1, "step")
    assert [line for line in seen(written) if line] == ["a line"]


def test_what_is_printed_by_others_while_bars_are_shown_stays_too(written):
    with progress_bars() as report:
        report("work", 0, 2, "step")
        print("printed")
        print("told", file=sys.stderr)
        report("work", 1, 2, "step")
    assert [line for line in seen(written) if line] == ["printed", "told"]


def test_what_is_printed_into_a_pipe_stays_there_while_bars_are_shown(written, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "STDOUT", Console(file=io.StringIO()))
    with progress_bars() as report:
        report("work", 0, 2, "step")
        print('{"data": 1}')
        report("work", 2, 2, "step")
    assert capsys.readouterr().out == '{"data": 1}\n'
    assert "data" not in written[0].getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_a_check_in_a_terminal_shows_all_that_it_shows_in_a_pipe(tiny, llx, columns):
    told = llx("check", tiny.folder).stdout.splitlines()
    code, screen = run_in_terminal(["check", str(tiny.folder)], columns)
    assert code == 0
    # Without spaces: where a terminal breaks a line, and where a word, is its own.
    assert "".join("".join(screen).split()) == "".join("".join(told).split())


@pytest.mark.parametrize(
    ("no_color", "terminal", "coloured"), [("", True, True), ("1", True, False), ("", False, False)]
)
def test_verdicts_have_colours_in_a_terminal_alone(monkeypatch, no_color, terminal, coloured):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    file = io.StringIO()
    made = Console(file=file, force_terminal=terminal, width=80, highlight=False)
    monkeypatch.setattr(console, "STDOUT", made)
    say("REGRESSED: tg128 on ort")
    show(
        simple_table("", ("verdict", "why"), [("improved", "x"), ("regressed", "INCONCLUSIVE: y")])
    )
    written = file.getvalue()
    assert ("\x1b[1;31mREGRESSED\x1b[0m: tg128" in written) == coloured
    assert ("\x1b[32mimproved" in written) == coloured
    assert ("\x1b[33mINCONCLUSIVE\x1b[0m: y" in written) == coloured
    assert coloured or not re.search(r"\x1b\[[\d;]*3\dm", written)


def ascii_only(monkeypatch):
    """The stdout of a terminal whose locale has nothing but ASCII, from now on."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    streams.prepare()
    monkeypatch.setattr(console, "STDOUT", Console(file=stream, width=80))
    return stream


def test_a_terminal_of_ascii_is_shown_signs_that_stand_for_ours(monkeypatch):
    stream = ascii_only(monkeypatch)
    rows = [("20.5 ± 0.7", "B×T"), ("3 ± 1", "1…8"), ("–", "Zoë \U0001f600")]
    show(simple_table("", (">speed · tok/s", "of"), rows))
    say("√D ≤ 1 — no “more”")
    stream.flush()
    lines = stream.buffer.getvalue().decode().split("\n")
    assert [line.rstrip() for line in lines[:5]] == [
        "speed * tok/s  of",
        "  20.5 +- 0.7  BxT",
        "       3 +- 1  1...8",
        "            -  Zo\\xeb \\U0001f600",
        'sqrt D <= 1 - no "more"',
    ]


def test_no_result_shows_a_code_in_a_terminal_of_ascii(monkeypatch):
    stream = ascii_only(monkeypatch)
    show_results([replace(RESULT, ceiling=CEILING)])
    stream.flush()
    assert b"\\" not in stream.buffer.getvalue()
