"""A process that died: how it ended, what that usually means, and a remedy that fits."""

from __future__ import annotations

import signal

import pytest

from llx.processes import how_it_ended, what_mends

MEMORY = "less memory is needed with -b"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
def test_a_crash_is_the_runtimes_and_blames_no_memory(name):
    code = -getattr(signal, name)
    assert how_it_ended(code) == f"was ended by {name}, a crash of the runtime"
    assert "llx doctor --bundle" in what_mends(code, MEMORY)
    assert MEMORY not in what_mends(code, MEMORY)


def test_a_kill_is_the_kernels_where_memory_runs_out():
    assert "memory runs out" in how_it_ended(-signal.SIGKILL)
    assert what_mends(-signal.SIGKILL, MEMORY) == MEMORY


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_who_was_stopped_runs_again(name):
    code = -getattr(signal, name)
    assert "stops it" in how_it_ended(code) or "closed" in how_it_ended(code)
    assert what_mends(code, MEMORY).startswith("run it again")


@pytest.mark.parametrize("code", [1, 70, 0, None, -200])
def test_any_other_end_is_reported_with_what_it_said(code):
    assert how_it_ended(code)
    assert "what it said above" in what_mends(code, MEMORY)
    assert MEMORY not in what_mends(code, MEMORY)
