"""Tables for notebooks: numbers in plain decimals, and text that stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.notebook import html_table, with_deviation


@pytest.mark.parametrize(
    ("mean", "sd", "shown"),
    [
        (725.34, 158.3, "725 ± 158"),
        (26_580.4, 7_803.0, "26,580 ± 7,803"),
        (19.7512, 0.1304, "19.75 ± 0.13"),
        (3.0, 0.0, "3.0 ± 0.0"),
    ],
)
def test_a_mean_is_shown_to_its_deviations_second_digit(mean, sd, shown):
    assert with_deviation(mean, sd) == shown


@given(st.text(), st.text())
def test_no_text_ends_a_cell(title, cell):
    shown = html_table(title, ("a",), [(cell,)])
    assert shown.count("<") == shown.count(">") == 12
