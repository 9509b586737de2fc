"""RAPL: the counters of x86 processors."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.machine import rapl
from llx.bench.machine.energy import Missing
from llx.bench.machine.rapl import find_rapl, unwrapped
from tests.machines import AMD_ENERGY, RAPL, tree

PACKAGE = "sys/class/powercap/intel-rapl:1/energy_uj"


def test_packages_and_memory_are_counted_and_nothing_twice(tmp_path):
    found = find_rapl(tree(tmp_path, RAPL))
    assert found.rail == "package-0 + dram-0 + package-1"
    before = found.read()
    assert before == [1_000_000, 500_000, 262143000000]
    tree(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "3500000\n"})
    assert found.joules(before, found.read(), 1.0) == pytest.approx(2.5)


def test_a_counter_that_starts_anew_is_followed(tmp_path):
    found = find_rapl(tree(tmp_path, RAPL))
    before = found.read()
    tree(tmp_path, {PACKAGE: "171150\n"})
    assert found.joules(before, found.read(), 1.0) == pytest.approx(0.5)


def test_a_window_in_which_a_counter_may_have_gone_round_twice_tells_nothing(tmp_path):
    found = find_rapl(tree(tmp_path, RAPL))
    assert found.joules(found.read(), found.read(), 100.0) is not None
    assert found.joules(found.read(), found.read(), 200.0) is None  # 65 kJ at 500 W


def test_amds_own_driver_is_read_where_powercap_shows_none(tmp_path):
    found = find_rapl(tree(tmp_path, AMD_ENERGY))
    assert (found.rail, found.read()) == ("Esocket0", [9_000_000])
    assert find_rapl(tree(tmp_path, RAPL)).rail.startswith("package-0")


def test_root_only_is_a_reason_with_its_remedy(tmp_path, monkeypatch):
    tree(tmp_path, RAPL)
    (tmp_path / PACKAGE).chmod(0)
    if os.access(tmp_path / PACKAGE, os.R_OK):  # this is root: let the kernel's answer be another
        monkeypatch.setattr(rapl, "number", lambda path: None)
        monkeypatch.setattr(rapl.os, "access", lambda *_: False)
    found = find_rapl(tmp_path)
    assert isinstance(found, Missing)
    assert found.reason == "RAPL is readable by root only"
    assert "chmod a+r" in found.remedy


def test_a_machine_without_counters_says_so(tmp_path):
    assert "the kernel shows no RAPL" in find_rapl(tmp_path).reason
    tree(tmp_path, {"proc/cpuinfo": "flags\t\t: fpu hypervisor\n"})
    assert "a virtual machine has no RAPL" in find_rapl(tmp_path).reason


@pytest.mark.parametrize("said", ["-5", "", "much", "9" * 30])
def test_a_counter_that_tells_no_number_is_not_read(tmp_path, said):
    assert isinstance(find_rapl(tree(tmp_path, RAPL | {PACKAGE: said})), Missing)


@settings(deadline=None)
@given(st.integers(1, 1 << 48), st.data())
def test_what_was_counted_is_found_whether_or_not_the_counter_started_anew(limit, data):
    before = data.draw(st.integers(0, limit - 1))
    counted = data.draw(st.integers(0, limit - 1))
    after = before + counted if before + counted < limit else before + counted - limit
    assert unwrapped(before, after, limit) == counted


def test_a_counter_that_goes_back_and_has_no_limit_tells_nothing():
    assert unwrapped(5, 4, None) is None
    assert unwrapped(10, 4, 7) is None
