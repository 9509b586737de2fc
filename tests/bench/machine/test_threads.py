"""Threads: as many as a process may use, by whatever limits it."""

from __future__ import annotations

import os

import pytest

from llx.bench.machine.threads import usable_threads


def machine(root, cores, quota="max 100000"):
    """A machine with a core for each CPU named, and a limit on CPU time."""
    for cpu, core in enumerate(cores):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core}\n")
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpu\n")
    (group / "cpu.max").write_text(f"{quota}\n")
    return root


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("affinity", "quota", "threads"),
    [
        ({0, 1, 2, 3, 4, 5, 6, 7}, "max 100000", 4),  # two threads a core
        ({0, 1}, "max 100000", 2),
        ({0, 4}, "max 100000", 1),  # of one core
        ({0, 1, 2, 3}, "250000 100000", 2),
        ({0, 1, 2, 3}, "50000 100000", 1),
    ],
)
def test_there_is_a_thread_for_each_core_that_may_be_used(
    tmp_path, monkeypatch, affinity, quota, threads
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)
    assert usable_threads(machine(tmp_path, [0, 1, 2, 3, 0, 1, 2, 3], quota)) == threads


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("5,2", 5), ("0", 1), ("many", 1)])
def test_what_openmp_is_told_goes_first_where_it_is_a_number(tmp_path, monkeypatch, asked, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert usable_threads(machine(tmp_path, [0])) == threads


def test_a_machine_that_tells_no_cores_has_some_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 2)
    assert usable_threads(tmp_path) == 2
