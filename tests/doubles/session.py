"""A `TrtSession` on the doubles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llx.artifact import Artifact
from llx.bench.sessions.trt import TrtSession
from llx.graphs.capacity import stamped
from llx.graphs.contract import GraphContract
from llx.runtime import Runtime
from tests.doubles.cuda import RecordingCuda
from tests.doubles.tensorrt import FakeEngine, FakeTensorRT, plan_of


def open_trt(
    artifact: Artifact,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
    rows: int = 1,
    runtime: Runtime = "trt",
    profiles: int = 1,
    capacity: int | None = None,
    contract: GraphContract | None = None,
    stripped: bool = False,
    capture_fails: Any = None,
    **flags: Any,
) -> tuple[TrtSession, RecordingCuda, FakeEngine]:
    """The session, and the doubles under it. `contract` is what the session takes it for."""
    own = artifact.manifest.contract
    own = replace(own, limits=replace(own.limits, capacity=capacity or own.limits.capacity))
    most = min(own.limits.max_new_tokens, own.limits.capacity)
    own = replace(own, limits=replace(own.limits, max_new_tokens=most))
    module = FakeTensorRT(runtime, **flags)
    monkeypatch.setattr("llx.tensorrt.load", lambda _: module)
    monkeypatch.setattr("llx.bench.sessions.trt.Cuda", RecordingCuda)
    monkeypatch.setattr(RecordingCuda, "capture_fails", capture_fails)
    graph = artifact.graph(dialect)
    session = TrtSession(
        runtime,
        plan_of(artifact, dialect, own, profiles, stripped=stripped),
        contract or own,
        dialect,
        rows,
        refit=(stamped(graph, own.limits.capacity), graph) if stripped else None,
    )
    return session, RecordingCuda.streams[session._cuda.stream], module.engines[-1]
