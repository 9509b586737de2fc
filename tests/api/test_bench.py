"""What `llx.bench` says before it measures."""

from __future__ import annotations

import pytest

from llx.api.bench import jobs_for
from llx.bench.speed.samples import Workload
from tests.conftest import export_tiny


@pytest.mark.parametrize(
    ("halves", "precision", "engine", "told"),
    [
        (False, "fp16", "torch", True),
        (False, "fp32", "torch", False),
        (False, "fp16", "ort", False),
        (True, "fp16", "torch", False),
        (None, "fp16", "torch", False),
    ],
)
def test_a_cpu_without_fp16_is_told_before_pytorch_is_slow(
    tmp_path, monkeypatch, halves, precision, engine, told
):
    monkeypatch.setattr("llx.api.bench.multiplies_halves", lambda: halves)
    artifact, said = export_tiny(tmp_path, precision), []
    jobs_for(artifact, [engine], Workload(), False, False, "llx bench", None, said.append)
    assert [("no fp16 instructions" in line) for line in said] == [True] * told
