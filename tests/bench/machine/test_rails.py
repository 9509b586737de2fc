"""Power of a Jetson: its rails in sysfs, and what `tegrastats` says."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.machine.energy import Missing
from llx.bench.machine.rails import (
    Rails,
    Tegrastats,
    find_rails,
    find_sensors,
    tegrastats_rails,
    whole_of,
)
from tests.machines import AGX_ORIN, JETSON, NANO, ORIN_NX, TEGRASTATS, THOR, XEON, tree

IN_MW = st.integers(0, 999_999_000)


@pytest.mark.parametrize(
    ("files", "source", "rail", "watts"),
    [
        (ORIN_NX, "INA3221", "VDD_IN", 6.041088),
        (AGX_ORIN, "INA3221", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 9.25),
        (NANO, "INA3221", "POM_5V_IN", 2.532),
        (THOR, "INA238", "VIN", 23.04),
    ],
    ids=["JetPack 6", "JetPack 5", "JetPack 4", "JetPack 7"],
)
def test_the_rails_that_are_the_whole_are_read(tmp_path, files, source, rail, watts):
    found = find_rails(tree(tmp_path, files), None)
    assert (found.source, found.rail) == (source, rail)
    assert found.watts() == pytest.approx(watts)


def test_what_is_connected_to_nothing_and_the_sum_of_shunts_are_no_rails(tmp_path):
    assert set(find_sensors(tree(tmp_path, AGX_ORIN))) == {
        *("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
    }


def test_iio_files_without_power_give_it_by_voltage_and_current(tmp_path):
    files = {name: said for name, said in NANO.items() if "in_power" not in name}
    assert find_rails(tree(tmp_path, files), None).watts() == pytest.approx(2.53)


@pytest.mark.parametrize(
    "said", ["-32", "1e9", "", "a lot", "99999999", "0x10", "１２", "5000 mA", "1" * 5000]
)
def test_a_reading_that_cannot_be_is_none(tmp_path, said):
    files = ORIN_NX | {"sys/class/hwmon/hwmon1/curr1_input": said}
    assert find_rails(tree(tmp_path, files), None).watts() is None


def test_a_rail_below_zero_makes_the_sum_unknown_and_not_smaller(tmp_path):
    files = {name: said for name, said in THOR.items() if "hwmon4" not in name}
    found = find_rails(tree(tmp_path, files), None)
    assert found.rail == "VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0"
    assert found.watts() is None


def test_rails_of_which_nobody_knows_the_whole_are_named(tmp_path):
    files = {name: said.replace("VDD_IN", "VDD_NEW") for name, said in ORIN_NX.items()}
    found = find_rails(tree(tmp_path, files), None)
    assert isinstance(found, Missing)
    assert "VDD_CPU_GPU_CV, VDD_NEW, VDD_SOC" in found.reason


def test_a_jetson_that_shows_nothing_is_told_what_would_help(tmp_path):
    found = find_rails(tree(tmp_path, JETSON), None)
    assert isinstance(found, Missing)
    assert "tegrastats" in found.remedy


def test_another_machine_is_no_jetson_whatever_sensors_it_has(tmp_path):
    other = {"sys/class/hwmon/hwmon1/name": "ina3221", "sys/class/hwmon/hwmon1/in1_label": "12V"}
    assert find_rails(tree(tmp_path, XEON | other), None) is None


@pytest.mark.parametrize("rail", TEGRASTATS)
def test_a_line_of_tegrastats_is_read_by_every_jetpacks_format(rail):
    line, watts = TEGRASTATS[rail]
    rails = tegrastats_rails(line)
    assert not {"RAM", "SWAP", "IRAM", "CPU", "APE"} & set(rails)
    names = whole_of(set(rails))
    assert " + ".join(names) == rail
    assert sum(rails[name] for name in names) == pytest.approx(watts)


@settings(deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{2,15}", fullmatch=True), IN_MW, max_size=6),
    st.sampled_from(["mW", ""]),
    st.text(st.characters(exclude_characters="\n"), max_size=20),
)
def test_any_rails_are_read_back_from_a_line(rails, unit, before):
    words = [f"{name} {now}{unit}/{now + 7}{unit}" for name, now in rails.items()]
    found = tegrastats_rails(" ".join(["RAM 1903/7771MB", *words]))
    assert found == {name: now / 1e3 for name, now in rails.items()}
    tegrastats_rails(before + " ".join(words))  # whatever else stands there


@settings(deadline=None)
@given(st.text())
def test_no_line_is_too_strange_for_tegrastats(line):
    assert all(watts >= 0 for watts in tegrastats_rails(line).values())


def tool(tmp_path, line):
    """A program that says a recorded line every now and then, as tegrastats does."""
    path = tmp_path / "tegrastats"
    path.write_text(
        f"#!{sys.executable}\nimport sys, time\nassert sys.argv[1:] == ['--interval', '100']\n"
        f"while True:\n    print({line!r}, flush=True)\n    time.sleep(0.01)\n"
    )
    path.chmod(0o755)
    return str(path)


def test_tegrastats_is_followed_where_the_rails_are_out_of_reach(tmp_path):
    found = find_rails(tree(tmp_path, JETSON), tool(tmp_path, TEGRASTATS["VDD_IN"][0]))
    assert isinstance(found, Tegrastats)
    assert (found.rail, found.watts()) == ("VDD_IN", pytest.approx(4.811))
    found.close()
    assert found._process.poll() is not None


def test_tegrastats_that_says_nothing_of_power_is_ended_and_named_missing(tmp_path):
    found = find_rails(tree(tmp_path, JETSON), tool(tmp_path, "RAM 1/2MB VDD_GPU -392mW/-392mW"))
    assert isinstance(found, Missing)


def test_rails_that_can_be_read_are_preferred_to_tegrastats(tmp_path):
    assert isinstance(find_rails(tree(tmp_path, ORIN_NX), "/nowhere/tegrastats"), Rails)
