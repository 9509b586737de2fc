"""What is typed for a number of positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.cli.arguments import positions
from llx.errors import BadInput
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny


@given(st.integers(1, 10**6))
def test_positions_are_counted_by_themselves_or_in_1024s(count):
    assert positions(str(count)) == count
    assert positions(f"{count}k") == positions(f" {count}K") == 1024 * count


@pytest.mark.parametrize("bad", ["", "k", "8kk", "8.5k", "8m", "k8", "nan"])
def test_any_other_word_is_refused(bad):
    with pytest.raises(BadInput, match=r"write --context 8192, or 8k"):
        positions(bad)


def test_an_export_takes_them(llx):
    ended = llx("export", "--size", "135m", "--weights", "none", "--context", "1k", "-o", "out")
    assert ended.code == 0
    assert "cache of 1024 positions" in ended.stdout


def test_no_context_is_suggested_that_the_next_command_refuses(llx, tiny):
    """The model of this artifact knows 96 positions, as many as its cache has."""
    long = llx("bench", tiny.folder, "--engine", "torch", "-p", "97")
    assert_refused(long, 2, "shorten it: the model itself knows 96 positions, and no more")
    prompt = llx("generate", tiny.folder, "x" * 200, "--engine", "torch")
    assert_refused(prompt, 2, "shorten it, since the model itself knows no more positions")


def test_a_context_is_suggested_that_the_next_command_takes(llx, tmp_path):
    artifact = export_tiny(tmp_path, context=48)
    long = llx("bench", artifact.folder, "--engine", "torch", "-p", "97")
    assert_refused(long, 2, "the model itself knows 96 positions, and no more")
    fitting = llx("bench", artifact.folder, "--engine", "torch", "-p", "60")
    assert_refused(fitting, 2, "export with --context 60 or more")
    prompt = llx("generate", artifact.folder, "x" * 60, "--engine", "torch")
    assert_refused(prompt, 2, "export with a larger --context, up to 96")
