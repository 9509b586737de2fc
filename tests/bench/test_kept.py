"""What a run has kept is gone on with where it is whole, and measured again where not."""

from __future__ import annotations

import pytest

from llx.bench.kept import Kept, kept_anything
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job, Outcome, Scenario
from llx.result import MemoryRecord

OUTCOME = Outcome(
    weights="w", details={"threads": 1}, memory=MemoryRecord(peak_host_bytes=None), load_s=1.5
)


@pytest.fixture
def job(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    work = Workload(prompts=(4,), generated=())
    given = {"folder": tiny.folder, "engine": "ort", "workload": work, "fidelity": False}
    return Job(**given, command="", resume=True)


def test_an_outcome_that_is_damaged_anywhere_is_none(job, tiny, tmp_path):
    scenario = Scenario(job, 0)
    with Kept.opened(job, tiny) as kept:
        kept.keep(scenario, OUTCOME)
        assert kept.outcome(scenario) == OUTCOME
        (path,) = tmp_path.rglob("*.outcome")
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
                path.write_bytes(data)
                assert kept.outcome(scenario) is None
        assert not kept_anything(job, tiny)
        path.write_bytes(whole)
        assert kept_anything(job, tiny)
        kept.discard()
