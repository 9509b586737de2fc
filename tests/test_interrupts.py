"""Ctrl-C ends every command with 130 and at most one line, whenever it is pressed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

# A shell's background job is born deaf to SIGINT, and so would be what it starts.
HEARING = ("env", "--default-signal=INT")
LINE = "llx: interrupted; nothing was left half-written"

# Presses Ctrl-C as the n-th module is being looked for after `main` has begun.
PRESSED = """
import os, signal, sys
from llx import interrupts
from llx.__main__ import main

class Presses:
    left = int(sys.argv.pop(1))
    def find_spec(self, *_):
        Presses.left -= 1
        if Presses.left == 0:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                print("raised inside an import", file=sys.stderr)
                raise

answer = interrupts.answer
def answered():
    answer()
    sys.meta_path.insert(0, Presses())
interrupts.answer = answered
try:
    main()
finally:
    if "COUNT" in os.environ:
        print(-Presses.left, file=sys.stderr)
"""


def pressed(at, *arguments, **environment):
    command = [*HEARING, *(f"{k}={v}" for k, v in environment.items()), sys.executable]
    return subprocess.run(
        [*command, "-c", PRESSED, str(at), *arguments], capture_output=True, text=True, check=False
    )


def assert_interrupted(ended):
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines() == [LINE]


def test_while_the_first_module_is_loaded(tmp_path):
    assert_interrupted(pressed(1, "models"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("arguments", "every"),
    [(("models",), 40), (("plan", "7b"), 60), (("compare", "x", "y"), 200), (("doctor",), 800)],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_while_any_module_is_loaded(arguments, every, capsys):
    """Nothing is raised inside an import: C++ that is loaded may call Python, and abort."""
    total = int(pressed(0, *arguments, COUNT="1").stderr.split()[-1])
    moments = range(1, total, every)
    for at in moments:
        assert_interrupted(pressed(at, *arguments))
    with capsys.disabled():
        print(f"\n{len(moments)} interrupts of llx {arguments[0]}", end=" ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_at_any_moment(capsys):
    """What the interpreter does before it has come to llx is not ours to answer."""
    total, before = 20, 0
    for i in range(total):
        command = [*HEARING, sys.executable, "-m", "llx", "doctor"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(2 * i / total)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        if "Traceback" in said or process.returncode == -signal.SIGINT:
            assert not re.search(r'File ".*/llx/(?!__init__|__main__|lazy|interrupts)', said), said
            before += 1
        else:
            assert (process.returncode, said.splitlines()) in ((130, [LINE]), (130, []), (0, []))
    with capsys.disabled():
        print(f"\n{total} interrupts, {before} of them before llx had begun", end=" ")


def test_who_is_deaf_stays_deaf():
    """A job in the background, and what `nohup` starts."""
    command = ["env", "--ignore-signal=INT", sys.executable, "-c", PRESSED, "1", "models"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
