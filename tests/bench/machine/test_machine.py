"""What a machine is, its limits, its fingerprint, and what makes its wall clock doubtful."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.machine import environment, watch
from llx.bench.machine.container import limited_s, read_container
from llx.bench.machine.environment import clocks_in_words, fingerprint, notes, power_mode_in_words
from llx.bench.machine.kernel import multiplies_halves, read_machine
from llx.bench.machine.sysfs import whole
from llx.bench.machine.watch import State, read_mhz, read_state, run_record, throttles
from llx.conditions import ContainerRecord, GpuRecord, RunRecord
from tests.machines import AGX_ORIN, ORIN_SETTINGS, XEON, tree

CPU0 = "sys/devices/system/cpu/cpu0"


@pytest.fixture
def xeon(tmp_path):
    return tree(tmp_path, XEON)


def test_a_server_is_described_by_its_files(xeon):
    found = read_machine(xeon)
    assert found.cpu == "Intel(R) Xeon(R) Gold 6338"
    assert (found.cpus, found.cores, found.numa_nodes) == (4, 2, 2)
    assert (found.smt, found.boost, found.virtual) == (True, True, False)
    assert (found.driver, found.governor) == ("intel_pstate", "powersave")
    assert found.memory_bytes == 32874000 * 1024
    assert found.container == ContainerRecord(
        version="v2", cpus=1.5, memory_bytes=16 << 30, cpuset="0-3"
    )
    assert power_mode_in_words(found) == (
        "platform profile balanced, energy preference balance_performance"
    )


def test_a_jetson_is_described_by_its_files(tmp_path):
    root = tree(tmp_path, AGX_ORIN | ORIN_SETTINGS)
    found = read_machine(root)
    assert found.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found.power_mode == "MODE_30W"
    assert throttles(root) == 7
    assert (found.smt, found.boost, found.governor, found.virtual) == (None,) * 4


def test_a_machine_that_shows_nothing_is_not_guessed_at(tmp_path):
    found = read_machine(tmp_path)
    unknown = (found.cores, found.smt, found.numa_nodes, found.governor, found.boost)
    assert (*unknown, found.power_mode, found.virtual) == (None,) * 7
    assert found.container == ContainerRecord()
    assert (clocks_in_words(found, None, ()), power_mode_in_words(found)) == ("not measured",) * 2
    state = read_state(tmp_path)
    assert (state.busy_s, state.stolen_s, state.limited_s, state.throttles) == (None,) * 4
    assert (state.swap_bytes, state.mhz) == (None, ())


def test_a_hypervisor_is_seen_by_its_flag(tmp_path):
    info = "model name\t: A CPU\nflags\t\t: fpu {} nx\n"
    for flag, virtual in (("hypervisor", True), ("hypervisors_friend", False)):
        root = tree(tmp_path / flag, {"proc/cpuinfo": info.format(flag)})
        assert read_machine(root).virtual is virtual


def test_limits_of_version_1_are_read(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/jobs/7\n3:cpuset:/\n1:cpu,cpuacct:/jobs/7\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.stat": "throttled_time 3000000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/cpuset/cpuset.cpus": "0-1\n",
        },
    )
    assert read_container(root) == ContainerRecord(
        version="v1", cpus=0.5, memory_bytes=1 << 30, cpuset="0-1"
    )
    assert limited_s(root) == pytest.approx(3)


def test_the_strictest_limit_of_the_groups_above_holds(xeon):
    tree(
        xeon,
        {
            "proc/self/cgroup": "0::/pod/mine\n",
            "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/pod/mine/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/mine/memory.max": "max\n",
        },
    )
    found = read_container(xeon)
    assert (found.cpus, found.memory_bytes) == (0.5, 16 << 30)


@pytest.mark.parametrize("said", ["max 100000", "", "-1 100000", "0 100000", "5 0", "a b", "1e9 1"])
def test_a_quota_that_is_none_is_no_limit(xeon, said):
    tree(xeon, {"sys/fs/cgroup/cpu.max": said})
    assert read_container(xeon).cpus is None


@settings(deadline=None)
@given(st.text(max_size=30))
def test_only_whole_numbers_are_numbers(said):
    value = whole(said, 1000)
    assert value is None or (re.fullmatch("[0-9]+", said) and 0 <= value == int(said) <= 1000)


def test_clocks_throttling_and_time_are_read_from_every_core(xeon):
    state = read_state(xeon)
    assert state.mhz == (800, 3200, 2900, 3100)
    assert state.throttles == 0 + 1 + 2 + 3 + 4
    per_second = watch._per_second()
    assert state.busy_s == pytest.approx((1000 + 10 + 500 + 20 + 30) / per_second)
    assert state.stolen_s == pytest.approx(40 / per_second)
    assert state.limited_s == pytest.approx(2.5)
    assert state.swap_bytes == 97148 * 1024


def test_clocks_come_from_cpuinfo_where_cpufreq_is_not(tmp_path):
    root = tree(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2445.404\ncpu MHz\t\t: 1500.000\n"})
    assert read_mhz(root) == (2445.404, 1500.0)


@pytest.mark.parametrize("said", ["-1", "fast", "999999999999", "0"])
def test_a_clock_that_cannot_be_is_left_out(xeon, said):
    tree(xeon, {f"{CPU0}/cpufreq/scaling_cur_freq": said})
    assert read_mhz(xeon) == (3200, 2900, 3100)


BEFORE = State(
    at_s=100.0,
    own_s=1.0,
    busy_s=50.0,
    stolen_s=5.0,
    limited_s=0.0,
    throttles=3,
    swap_bytes=0,
    mhz=(1000.0, 1200.0),
)


def later(**change):
    return replace(BEFORE, at_s=110.0, own_s=11.0, busy_s=63.1, stolen_s=6.0, **change)


def test_what_others_used_is_what_was_busy_and_not_ours():
    run = run_record(BEFORE, [], later())
    assert run.others_cpu == pytest.approx(0.31)
    assert run.stolen_cpu == pytest.approx(0.1)
    assert run_record(BEFORE, [], later(throttles=5)).throttles == 2


BURN = """
import os, sys, time
while time.process_time() < 0.7:
    pass
print(time.process_time(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(read_state().busy_s is None, reason="the kernel does not say how busy it is")
def test_a_process_that_works_meanwhile_is_seen():
    before = read_state()
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) as other:
        used = float(other.stdout.readline())
        run = run_record(before, [], read_state())
        other.kill()
    assert run.others_cpu * run.seconds > 0.8 * used


def test_ticks_that_lag_behind_are_no_negative_use():
    assert run_record(BEFORE, [], replace(later(), busy_s=59.9)).others_cpu == 0


def test_a_count_that_is_missing_or_goes_back_is_not_measured():
    assert run_record(BEFORE, [], later(throttles=1)).throttles is None
    assert run_record(BEFORE, [], replace(later(), busy_s=None)).others_cpu is None


def test_clocks_are_those_seen_as_tests_ended():
    seen = [later(mhz=(800.0, 3300.0)), later(mhz=(900.0, 3000.0))]
    run = run_record(BEFORE, seen, later())
    assert run.cpu_mhz_tests == (800, 3300)
    assert run.fastest_mhz_tests == (3000, 3300)
    assert run.cpu_mhz_before == (1000, 1200)


def test_the_fingerprint_is_of_the_machine_and_its_settings(xeon):
    machine = read_machine(xeon)
    card = GpuRecord(name="card", sm=90, memory_bytes=1, power_limit_watts=350.0)
    same = fingerprint("a Xeon", machine, card)
    changes = [
        {"governor": "performance"},
        {"boost": False},
        {"power_mode": "platform profile low-power"},
        {"preference": "power"},
        {"usable_cpus": 1},
        {"memory_bytes": 16 << 30},
        {"container": replace(machine.container, cpus=1.0)},
        {"container": replace(machine.container, memory_bytes=8 << 30)},
    ]
    others = [fingerprint("a Xeon", replace(machine, **change), card) for change in changes]
    others.append(fingerprint("a Xeon", machine, replace(card, power_limit_watts=250.0)))
    others.append(fingerprint("another", machine, card))
    assert len({same, *others}) == len(others) + 1


def test_the_fingerprint_knows_neither_load_nor_clocks_nor_versions(xeon):
    machine = read_machine(xeon)
    card = GpuRecord(name="card", sm=90, memory_bytes=1, driver="1")
    same = fingerprint("a Xeon", machine, card)
    tree(
        xeon,
        {
            f"{CPU0}/cpufreq/scaling_cur_freq": "3000000\n",
            "proc/stat": "cpu  9 9 9 9 9 9 9 9\n",
            "proc/meminfo": "MemTotal: 32874001 kB\nMemFree: 1 kB\n",
            f"{CPU0}/thermal_throttle/core_throttle_count": "9\n",
        },
    )
    assert fingerprint("a Xeon", read_machine(xeon), replace(card, driver="2")) == same


def test_a_memory_limit_above_the_memory_is_none(xeon):
    machine = read_machine(xeon)
    wide = replace(machine, container=replace(machine.container, memory_bytes=1 << 50))
    none = replace(machine, container=replace(machine.container, memory_bytes=None))
    assert fingerprint("a Xeon", wide) == fingerprint("a Xeon", none)


QUIET = RunRecord(
    seconds=100.0,
    others_cpu=0.02,
    stolen_cpu=0.0,
    throttles=0,
    limited_s=0.0,
    gpu_slowed_s=0.0,
    fastest_mhz_tests=(3200.0, 3300.0),
    gpu_mhz_tests=(1950.0, 1980.0),
    swap_before_bytes=5,
    swap_after_bytes=5,
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"others_cpu": 0.31}, "others used 0.31 of a core"),
        ({"stolen_cpu": 0.2}, "the hypervisor kept 0.20"),
        ({"throttles": 4}, "slowed itself down 4 times"),
        ({"limited_s": 2.5}, "CPU limit stopped threads for 2.5 s"),
        ({"gpu_slowdowns": ["power cap"]}, "the GPU was slowed by: power cap"),
        ({"gpu_slowed_s": 9.0}, "slowed the GPU for 9.0 s"),
        ({"fastest_mhz_tests": (2800.0, 3300.0)}, "CPU's clock changed between tests: 2800…3300"),
        ({"gpu_mhz_tests": (1200.0, 1980.0)}, "GPU's clock changed"),
        ({"swap_after_bytes": 5 + (3 << 20)}, "3.0 MiB were swapped out"),
    ],
)
def test_what_makes_a_wall_clock_doubtful_is_said(xeon, change, says):
    machine = read_machine(xeon)
    assert list(notes(machine, QUIET, 0.1)) == []
    (said,) = notes(machine, replace(QUIET, **change), 0.1)
    assert says in said


def test_a_load_counts_for_each_cpu_and_powersave_where_it_is_slow(xeon):
    machine = read_machine(xeon)
    assert machine.cpus == 4
    assert list(notes(machine, None, 2.0)) == []
    assert "load was 2.1 before, on 4 CPUs" in next(notes(machine, None, 2.1))
    assert list(notes(machine, QUIET, 2.1)) == []  # what was seen meanwhile says more
    slow = replace(machine, driver="acpi-cpufreq")
    assert "powersave" in next(notes(slow, QUIET, 0.0))
    assert "energy preference" in next(notes(replace(machine, preference="power"), QUIET, 0.0))


def test_this_machine_has_a_whole_environment():
    found = environment.read_environment(2, 0.0, 0.0)
    assert found.machine.cpus >= 1
    assert found.machine.memory_bytes > 1 << 28
    assert re.fullmatch("[0-9a-f]{16}", found.device_fingerprint)
    assert found.device_fingerprint == environment.read_environment(1, 9.0, 9.0).device_fingerprint
    assert (found.gpu, found.run) == (None, None)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 f16c\n", False),
        ("flags\t\t: fpu avx512f avx512_fp16\n", True),
        ("Features\t: fp asimd evtstrm aes fphp asimdhp\n", True),
        ("Features\t: fp asimd evtstrm aes\n", False),
        ("processor\t: 0\n", None),
    ],
)
def test_a_cpu_that_multiplies_halves_is_known_by_its_flags(tmp_path, said, wanted):
    assert multiplies_halves(tree(tmp_path, {"proc/cpuinfo": said})) is wanted
