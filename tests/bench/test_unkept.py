"""What a run keeps for `--resume` is worth less than what it measures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llx.bench import kept
from llx.bench.kept import Kept, kept_anything
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job, Outcome, scenarios_of
from llx.errors import BadInput, Lacking
from llx.files import cache_folder, state_folder
from llx.result import MemoryRecord, read_results

OUTCOME = Outcome(
    weights="w", details={}, memory=MemoryRecord(peak_host_bytes=1, cache_bytes=1), load_s=1.0
)


@pytest.fixture
def job(tiny):
    workload = Workload(prompts=(8,), generated=(4,))
    return Job(
        folder=tiny.folder, engine="ort", workload=workload, fidelity=False, command="x",
        resume=True,
    )  # fmt: skip


def no_home(patch, _):
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr("pwd.getpwuid", lambda uid: {}[uid])


def a_file(patch, folder):
    (folder / "file").touch()
    patch.setenv("XDG_STATE_HOME", str(folder / "file"))


def a_full_disk(patch, folder):
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    patch.setattr(kept, "write_sealed", full)


def a_locked_out_user(patch, folder):
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "state")

    patch.setattr(kept, "make_folder", denied)


PLACES = [no_home, a_file, a_full_disk, a_locked_out_user]


@pytest.mark.parametrize("place", PLACES)
def test_a_state_folder_that_cannot_be_used_stops_no_measurement(
    place, job, tiny, monkeypatch, tmp_path
):
    place(monkeypatch, tmp_path)
    scenario = scenarios_of(job, tiny)[0]
    assert not kept_anything(job, tiny)
    with Kept.opened(job, tiny) as found:
        found.keep(scenario, OUTCOME)
        found.keep(scenario, OUTCOME)
        assert found.problem
        assert len(found.problem.splitlines()) == 1
        assert found.outcome(scenario) is None
        found.discard()


def test_what_is_being_measured_is_still_told(job, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with (
        Kept.opened(job, tiny) as found,
        pytest.raises(BadInput, match="measured by another run"),
        Kept.opened(job, tiny),
    ):
        pass
    assert found.problem is None


@pytest.mark.parametrize("relative", ["", "state", "./x"])
def test_a_relative_folder_of_the_users_is_ignored_as_the_specification_says(relative, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", relative)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state_folder() == Path("/home/somebody/.local/state/llx")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    no_home(monkeypatch, None)
    for folder, variable in ((state_folder, "XDG_STATE_HOME"), (cache_folder, "XDG_CACHE_HOME")):
        with pytest.raises(Lacking, match=variable):
            folder()


QUICK = ("-p", "4", "-n", "2", "-r", "2", "--quick", "--no-roofline")


@pytest.mark.slow
def test_a_measurement_that_cannot_be_kept_is_printed_and_that_is_said_once(llx, tiny, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    ended = llx("bench", tiny.folder, *QUICK, "-o", "json")
    assert ended.code == 0
    (line,) = [line for line in ended.stderr.splitlines() if "--resume" in line]
    assert line.startswith("llx: nothing was kept for --resume while it ran: ")
    assert '"tg2"' in ended.stdout


@pytest.mark.slow
def test_a_measurement_that_cannot_be_printed_is_kept_in_a_file(llx, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llx.reports.formats.print_data", full)
    ended = llx("bench", tiny.folder, *QUICK, "-o", "json")
    assert ended.code == 3
    *told, line = ended.stderr.splitlines()
    assert all("fewer than 5 repetitions" in one for one in told)
    assert "what was measured is in " in line
    (path,) = tmp_path.glob("llx-results-*.json")
    assert str(path) in line
    assert [row.test for row in read_results(path)[0].speed] == ["pp4", "tg2"]
    assert os.stat(path).st_mode & 0o77 == 0
