"""A bundle that was written here and lies on a device whose TensorRT is a double."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from llx.bench.edge import device as edge
from llx.bench.fidelity.reference import capture
from llx.bench.sessions.fake import FakeSession
from llx.bench.sessions.torch import TorchSession
from llx.bundle import BUILD, PLAN, RECIPE, BuildRecord, write_record
from llx.corpus import Corpus, Cut
from llx.exporter.engines.build import BuildRequest
from llx.exporter.engines.bundle import Place, make_bundle, write_bundle
from llx.files import sha256_of
from llx.gpu import Gpu
from llx.probe import OUT
from tests.conftest import export_tiny

WORKLOAD = {
    "prompts": (40,),
    "generated": (6,),
    "requests": ((20, 4),),
    "repetitions": 5,
}


class TrtDouble(FakeSession):
    """A recording double in the place of TensorRT's session."""

    def __init__(self, runtime, plan, contract, dialect, rows=1):
        assert (runtime, plan, dialect) == ("trt", b"an engine", "primitive")
        super().__init__(contract.limits, rows)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    artifact = export_tiny(tmp_path_factory.mktemp("judged"), "fp16")
    text = Corpus(name="novel.txt", text="It was a fine day. " * 99, sha256="novel", own=False)
    for corpus, stride in ((None, None), (text, 16)):
        cut = Cut(window=32, windows=3, stride=stride)
        artifact = capture(artifact, TorchSession.open, cut, corpus).artifact
    return artifact


@pytest.fixture
def bundle(artifact, tmp_path, monkeypatch):
    """A bundle with an engine, on a device whose TensorRT is a double."""
    request = BuildRequest(runtime="trt", max_prefill=16, batch=2)
    place = Place(tensorrt="10.3", jetpack="6.2")
    folder = tmp_path / "bundle"
    write_bundle(make_bundle(artifact, request, place, WORKLOAD), folder)
    (folder / OUT).mkdir()
    (folder / OUT / PLAN).write_bytes(b"an engine")
    built = BuildRecord(
        recipe=sha256_of(folder / RECIPE),
        tensorrt="10.3.0",
        gpu="Orin",
        sm=87,
        plan_bytes=9,
        plan_sha256=sha256_of(folder / OUT / PLAN),
        seconds=1.5,
        peak_host_bytes=1,
        layers={},
    )
    write_record(folder, BUILD, built)
    double = ModuleType("llx.bench.sessions.trt")
    double.TrtSession = TrtDouble
    monkeypatch.setitem(sys.modules, double.__name__, double)
    monkeypatch.setattr(edge, "require_gpu", lambda *_: Gpu("Orin", 87, 1 << 36))
    return folder
