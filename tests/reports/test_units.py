"""Numbers as people read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.reports.units import (
    alike,
    binary_bytes,
    decimal_bytes,
    parameters,
    plus_minus,
    significant,
)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.9, 0.88, 0.92), ["0.900", "0.880", "0.920"]),
        ((1.0, 0.98, 1.024), ["1.000", "0.980", "1.024"]),
        ((1.62, 0.6172, 4.24), ["1.62", "0.62", "4.24"]),
        ((0.8712, 0.86, 0.931), ["0.871", "0.860", "0.931"]),
        ((250.4, 98.0, 260.0), ["250", "98", "260"]),
        ((0.01234, 0.011, 0.014), ["0.0123", "0.0110", "0.0140"]),
        ((1.0,), ["1"]),
        ((1.004,), ["1.004"]),
        ((0.0, 0.0, 2.0), ["0", "0", "2"]),
        ((2.0, 1.0, float("inf")), ["2", "1", "inf"]),
    ],
)
def test_a_ratio_and_the_ends_of_its_interval_have_as_many_decimals(values, said):
    assert alike(*values) == said


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (15.483, 0.561, "15.48 ± 0.56"),
        (332.4, 18.2, "332 ± 18"),
        (20.654, 0.0821, "20.654 ± 0.082"),
        (12.0, 0.0, "12 ± 0"),
        (1.4e-11, 2e-12, "1.4e-11 ± 2e-12"),
        (1.00002, 0.00013, "1.00002 ± 0.00013"),
        (1234.5, 250.0, "1234 ± 250"),
    ],
)
def test_a_value_is_as_long_as_its_error_allows(value, error, text):
    assert plus_minus(value, error) == text


@given(st.floats(1e-2, 1e6), st.floats(1e-6, 1e5))
def test_what_is_printed_is_within_the_error(value, error):
    shown, plus = (float(part) for part in plus_minus(value, error).split(" ± "))
    assert abs(shown - value) <= max(0.1 * error, 1e-8)
    assert plus == pytest.approx(error, rel=0.1, abs=1e-8)


@given(st.integers(0, 2**60))
def test_bytes_are_read_back_within_a_tenth_of_their_unit(count):
    number, unit = binary_bytes(count).split()
    size = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * size - count) <= 0.051 * size


@pytest.mark.parametrize(
    ("count", "text"), [(134_515_008, "134.5 M"), (6_738_415_616, "6.74 B"), (2_432, "2 K")]
)
def test_parameters(count, text):
    assert parameters(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (83.4512, "83.45"), (123456.0, "123500"), (2.5e7, "2.5e+07"), (1e-5, "1.0e-05")],
)
def test_significant_digits(value, text):
    assert significant(value) == text


@given(st.floats(-1e300, 1e300))
def test_every_number_has_a_text(value):
    assert re.fullmatch(r"-?[0-9.]+(e[+-]\d+)?", significant(value))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (13481148416, "13.48 GB"),
        (-650e6, "-650.00 MB"),
        (2e15, "2000.00 TB"),
    ],
)
def test_datasheets_count_in_thousands(count, text):
    assert decimal_bytes(count) == text
