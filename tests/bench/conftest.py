"""What tests of the harness share."""

from __future__ import annotations

import pytest

from llx.bench.speed.samples import Workload
from llx.bench.worker import Job


@pytest.fixture
def job(judged):
    """A prefill, a decode and the judging of a tiny model, in ONNX Runtime, without a probe."""
    return Job(
        folder=judged.folder,
        engine="ort",
        workload=Workload(prompts=(8,), generated=(4,), repetitions=5),
        fidelity=True,
        command="llx bench",
        roofline=False,
    )
