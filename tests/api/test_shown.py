"""What Python shows of llx: its names, its help, and its objects in a line each."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import llx
from llx.api.report import Report
from llx.reports.compare.pairs import compare_results
from tests.reports.made import RESULT


def test_only_what_is_public_is_listed():
    assert [name for name in dir(llx) if not name.startswith("__")] == sorted(llx.__all__)


def test_bench_is_the_same_before_other_calls_and_after():
    code = (
        "import llx; first = llx.bench\n"
        "import llx.bench.run, llx.api.generate\n"
        "print(first is llx.bench, callable(first))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "True"]


def test_the_help_of_bench_is_that_of_the_function():
    shown = pydoc.plain(pydoc.render_doc(llx.bench))
    for part in ("engines", "repetitions: Runs that count", "Interrupted: Ctrl-C"):
        assert part in shown
    assert list(inspect.signature(llx.bench).parameters)[:2] == ["artifact", "engines"]


@pytest.fixture
def shown(judged):
    return {
        "artifact": judged,
        "result": RESULT,
        "results": llx.Results([RESULT, RESULT]),
        "no results": llx.Results(),
        "plans": llx.plan("135m"),
        "compared": compare_results([RESULT], [RESULT]),
        "report": Report(
            page=Path("site/index.html"),
            markdown=Path("site/report.md"),
            shown=[RESULT],
            baseline=[],
            compared=None,
        ),
    }


def test_an_object_shows_itself_in_a_line(shown):
    for name, value in shown.items():
        line = repr(value)
        assert line.startswith(f"<llx.{type(value).__name__}: "), name
        assert line.isprintable()
        assert len(line) < 400, name
    assert "2 of 2" not in repr(shown["results"])
    assert RESULT.engine in repr(shown["result"])
    assert "fp32" in repr(shown["artifact"])
    assert "\x1b" not in repr(replace(RESULT, engine="\x1b[31m"))


def test_a_session_that_is_closed_says_so(judged):
    session = judged.session("torch")
    session.step([1, 2])
    assert "2 of 96 positions filled" in repr(session)
    session.close()
    session.close()
    assert "closed" in repr(session)
    for used in (lambda: session.step([1]), session.reset, session.memory, lambda: session.limits):
        with pytest.raises(llx.BadInput, match="the session is closed"):
            used()


@pytest.mark.parametrize(
    ("given", "why"),
    [({"prompt": "x" * 200}, "200 tokens"), ({"tokens": 0}, "no token"), ({"prompt": ""}, "empty")],
)
def test_text_that_cannot_be_generated_is_refused_at_the_call(judged, given, why):
    with pytest.raises(llx.BadInput, match=why):
        llx.generate(judged, **{"prompt": "a", "engine": "torch", **given})


def test_a_frame_says_why_a_row_is_invalid_its_first_token_and_its_share():
    row = replace(
        RESULT.speed[0], valid=False, invalid_reason="too noisy", roofline_probe=0.5, ttft_ms=None
    )
    frame = llx.Results([replace(RESULT, speed=[row, *RESULT.speed])]).to_frame()
    assert frame["invalid_reason"][0] == "too noisy"
    assert frame["roofline_probe"][0] == 0.5
    assert {"ttft_ms_p50", "tpot_ms_p50"} <= set(frame.columns)
