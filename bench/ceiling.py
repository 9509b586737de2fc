"""What this machine can do at most, measured in the same run: a read bandwidth and a FLOP rate.

Both come from one matrix product by the library that the engine computes with: with one row it
reads its matrix once and does little else, with many it does little but multiply. On the CPU NumPy
is asked as well, and the better of the two counts, since a ceiling that the engine's own library
sets too low would call honest numbers impossible. On a GPU whose engine brings no such library
(ONNX Runtime, TensorRT) a copy within its memory is timed, which reads and writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench import clock
from llx.precision import Compute
from llx.processes import in_own_process
from llx.progress import Progress
from llx.result import Ceiling


@dataclass(frozen=True)
class Sizes:
    """Of the products. For FLOPs: [rows, side] × [side, side].

    For reads: [1, side] by a matrix of as many bytes as a step reads, from `least` to `most`:
    beyond that no cache holds them.
    """

    side: int
    rows: int
    least: int
    most: int


CPU = Sizes(side=2048, rows=512, least=4 << 20, most=256 << 20)
GPU = Sizes(side=8192, rows=4096, least=256 << 20, most=1 << 30)
RUNS, LEAST_RUNS, LONG_S = 15, 3, 0.5  # of a product, and what is long for all of them
LIMIT_S = 120.0
IF_IT_DIED = "free memory, or bench with --no-roofline"

Product = Callable[[], object]
Library = Callable[[int, int, int], Product]
"""Makes the product of [rows, inputs] and [inputs, outputs], to be run again and again."""


@dataclass(frozen=True)
class CeilingJob:
    """What sets the ceiling: an engine, what it computes in, its threads, its step's bytes."""

    engine: str
    compute: Compute
    threads: int | None
    step_bytes: int


def find_ceiling(job: CeilingJob, progress: Progress) -> Ceiling:
    """Measure in a process of its own. Raises `LlxError` where that fails."""
    with _threads_of_libraries(job.threads):
        return in_own_process(
            measure_ceiling, job, progress, "the roofline's probe", IF_IT_DIED, LIMIT_S
        )


def higher(first: Ceiling, second: Ceiling) -> Ceiling:
    """The best of two probes, before and after: what the machine could do at some time."""
    read, flops = (
        max(first, second, key=lambda one: getattr(one, name) or 0.0)
        for name in ("read_bytes_per_s", "flops_per_s")
    )
    return replace(read, flops_per_s=flops.flops_per_s, flops_noise=flops.flops_noise)


@contextmanager
def _threads_of_libraries(threads: int | None) -> Iterator[None]:
    """For a process that is started in it: OpenMP, OpenBLAS and MKL read theirs as they load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    if threads:
        os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def measure_ceiling(job: CeilingJob, progress: Progress) -> Ceiling:
    """The best of the libraries, in this process."""
    if job.engine in ("ort-cuda", "ort-tensorrt", "trt", "trt-rtx"):
        return _copied_on_device(job, progress)
    sizes = GPU if job.engine.endswith("cuda") else CPU
    side = sizes.side
    outputs = min(max(job.step_bytes, sizes.least), sizes.most) // (4 * side)
    found: list[Ceiling] = []
    for name, value_bytes, library in _libraries(job):
        progress(f"roofline: {name}", len(found), 2, "library")
        read = _rates(library(1, side, outputs), value_bytes * side * outputs)
        multiplied = _rates(library(sizes.rows, side, side), 2 * sizes.rows * side * side)
        found.append(
            Ceiling(
                by=name,
                working_set=value_bytes * side * outputs,
                threads=job.threads,
                read_bytes_per_s=float(read.max()),
                read_noise=_noise(read),
                flops_per_s=float(multiplied.max()),
                flops_noise=_noise(multiplied),
            )
        )
    best = found[0]
    for other in found[1:]:
        best = higher(best, other)
    if job.engine == "ort" and job.compute != "fp32":
        # Some CPUs multiply halves faster than fp32, which the probe is in.
        return replace(best, flops_per_s=None, flops_noise=None)
    return best


def _libraries(job: CeilingJob) -> Iterator[tuple[str, int, Library]]:
    """Name, bytes of a value, and library."""
    if not job.engine.endswith("cuda"):
        yield "numpy", 4, _numpy
    if job.engine == "ort":
        yield "onnxruntime", 4, lambda *shape: _onnxruntime(shape, job.threads)
    elif job.engine.startswith("torch"):
        device = "cuda" if job.engine.endswith("cuda") else "cpu"
        size = 4 if job.compute == "fp32" else 2
        yield "torch", size, lambda *shape: _torch(shape, job, device)


def _values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def _numpy(rows: int, inputs: int, outputs: int) -> Product:
    x, weight = _values(rows, inputs), _values(inputs, outputs)
    out = np.empty((rows, outputs), np.float32)
    return lambda: np.matmul(x, weight, out=out)


def _onnxruntime(shape: tuple[int, ...], threads: int | None) -> Product:
    import onnx
    import onnxruntime

    rows, inputs, outputs = shape
    weight = onnx.numpy_helper.from_array(_values(inputs, outputs), "weight")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [value("x", onnx.TensorProto.FLOAT, [rows, inputs])],
        [value("y", onnx.TensorProto.FLOAT, [rows, outputs])],
        [weight],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = _values(rows, inputs)
    return lambda: session.run(None, {"x": x})


def _torch(shape: tuple[int, ...], job: CeilingJob, device: str) -> Product:
    from llx.bench.sessions.torch import matrix_product

    rows, inputs, outputs = shape
    x, weight = _values(rows, inputs), _values(inputs, outputs)
    return matrix_product(x, weight, job.compute, job.threads, device)


def _copied_on_device(job: CeilingJob, progress: Progress) -> Ceiling:
    """A copy within a GPU's memory, whose bytes are read and written; no FLOP rate is known."""
    from llx.bench.cuda import Cuda

    width, lines = 1 << 20, GPU.most >> 20
    count = width * lines
    progress("roofline: copy", 0, 1, "probe")
    cuda = Cuda()
    source, target = cuda.allocate(count), cuda.allocate(count)

    def copy() -> None:
        cuda.copy_lines(target, width, source, width, width, lines)
        cuda.synchronize()

    rates = _rates(copy, 2 * count)
    cuda.close()
    return Ceiling(
        by="a copy on the device",
        working_set=count,
        threads=job.threads,
        read_bytes_per_s=float(rates.max()),
        read_noise=_noise(rates),
    )


def _rates(product: Product, amount: int) -> NDArray[Any]:
    """Amount a second of several runs, fewer of a slow product, after one that does not count."""
    seconds: list[float] = []
    product()
    while len(seconds) < RUNS and (len(seconds) < LEAST_RUNS or sum(seconds) < LONG_S):
        start = clock.now_ns()
        product()
        seconds.append((clock.now_ns() - start) / 1e9)
    return amount / np.array(seconds)


def _noise(rates: NDArray[Any]) -> float:
    """Relative standard deviation of the faster half: what is left where nothing disturbs."""
    faster = np.sort(rates)[len(rates) // 2 :]
    return float(faster.std(ddof=1) / faster.mean())
