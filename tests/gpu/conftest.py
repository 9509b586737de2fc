"""What the tests on a GPU share: the GPU itself, its bandwidth, engines built on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llx.api.engines import engine_for
from llx.artifact import Artifact
from llx.bench.sessions import ENGINES
from llx.errors import Lacking
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.request import ExportRequest
from llx.gpu import Gpu, find_gpu
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from llx.tensorrt import load, targets
from tests.conftest import export_tiny

PROBE_BYTES = 2**28
GPU_ENGINES = [name for name, engine in ENGINES.items() if engine.gpu]


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The GPU. Who asks for these tests has one: without it they fail, and are not skipped."""
    found = find_gpu()
    if found is None:
        pytest.fail("no NVIDIA GPU here, or no driver")
    return found


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Engines that the tests build are noted in a folder of the tests' own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def tiny_fp16(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_tiny(tmp_path_factory.mktemp("tiny-fp16"), "fp16")


@pytest.fixture(scope="session")
def smollm2_fp16(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    preset = preset_of_size("135m")
    request = ExportRequest(
        weights=locate(None, preset),
        folder=Path(tmp_path_factory.mktemp("smollm2-fp16")) / "artifact",
        precision=PRECISIONS["fp16"],
        context=768,
        preset=preset,
        command="llx export --size 135m --precision fp16 --context 768",
    )
    return export(request)[0]


@pytest.fixture(scope="session")
def bandwidth(gpu: Gpu) -> float:
    """Bytes a second that the GPU moves within its memory, read and written; the best of ten."""
    from llx.bench.cuda import Cuda

    cuda = Cuda()
    source, target = cuda.allocate(PROBE_BYTES), cuda.allocate(PROBE_BYTES)
    cuda.clear(source, PROBE_BYTES)
    best = float("inf")
    for _ in range(10):
        cuda.synchronize()
        start = time.perf_counter()
        cuda.copy_lines(target, PROBE_BYTES, source, PROBE_BYTES, PROBE_BYTES, 1)
        cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    cuda.close()
    return 2 * PROBE_BYTES / best


def ready(name: str, artifact: Artifact, rows: int, gpu: Gpu) -> None:
    """Build what an engine needs. What is not installed, or does not know the GPU, is skipped.

    The summary of the run counts what was skipped.
    """
    engine = ENGINES[name]
    try:
        engine.require()
    except Lacking as lacking:
        pytest.skip(str(lacking))
    if engine.runtime == "trt-rtx" and gpu.sm < 80 and gpu.sm not in targets(load("trt-rtx")):
        pytest.skip(f"TensorRT-RTX does not build for SM {gpu.sm}")
    if engine.runtime:
        engine_for(artifact, engine.runtime, rows)
