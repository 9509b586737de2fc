"""What this machine can do at most, measured in the same run: a read bandwidth and a FLOP rate.

Both come from one matrix product by the library that the engine computes with: with one row it
reads its matrix once and does little else, with many it does little but multiply. On the CPU NumPy
is asked as well, and the better of the two counts, since a ceiling that the engine's own library
sets too low would call honest numbers impossible. On a GPU whose engine brings no such library
(ONNX Runtime, TensorRT) a copy within its memory is timed, which reads and writes.

A speed is a mean over a while, so a share is one of the median moment: the best moment of a shared
machine is a third above it (reports/LOG.md, 2026-11-25). What is above the best moment cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llx.bench import clock
from llx.bench.sessions import OPENVINO, Inference
from llx.errors import is_installed
from llx.precision import Compute
from llx.processes import environment, in_own_process
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
MOMENTS, MOMENT_S = 10, 0.05  # of a product's runs, each of one at least
PILOT_ROWS, LONGEST_S = 8, 0.5  # a product that would take longer has fewer rows
LIMIT_S = 120.0
IF_IT_DIED = "free memory, or bench with --no-roofline"

Product = Callable[[], object]
Library = Callable[[int, int, int], Product]
"""Makes the product of [rows, inputs] and [inputs, outputs], to be run again and again."""


@dataclass(frozen=True)
class CeilingJob:
    """What sets the ceiling: an engine, what it computes in, its threads, its step's bytes.

    `integers`: whether layers are quantized, which some engines multiply as integers.
    """

    engine: str
    compute: Compute
    threads: int | None
    step_bytes: int
    integers: bool = False


def find_ceiling(job: CeilingJob, progress: Progress) -> Ceiling:
    """Measure in a process of its own. Raises `LlxError` where that fails."""
    with _threads_of_libraries(job.threads):
        return in_own_process(
            measure_ceiling, job, progress, "the roofline's probe", IF_IT_DIED, LIMIT_S
        )


def higher(first: Ceiling, second: Ceiling) -> Ceiling:
    """The better of two libraries, for reads and FLOPs apart."""
    read, flops = (
        max(first, second, key=lambda one: getattr(one, name) or 0.0)
        for name in ("read_bytes_per_s", "flops_per_s")
    )
    return replace(
        read,
        flops_per_s=flops.flops_per_s,
        flops_highest=flops.flops_highest,
        flops_samples=flops.flops_samples,
    )


def together(first: Ceiling, second: Ceiling) -> Ceiling:
    """Two probes of one run, as one: its moments are those of both."""
    return _ceiling(
        " and ".join(dict.fromkeys((first.by, second.by))),
        first.working_set,
        first.threads,
        first.read_samples + second.read_samples,
        first.flops_samples + second.flops_samples,
    )


def _ceiling(
    by: str, working_set: int, threads: int | None, read: list[float], flops: list[float]
) -> Ceiling:
    return Ceiling(
        by=by,
        working_set=working_set,
        threads=threads,
        read_bytes_per_s=float(np.median(read)),
        read_highest=max(read),
        read_samples=read,
        flops_per_s=float(np.median(flops)) if flops else None,
        flops_highest=max(flops, default=None),
        flops_samples=flops,
    )


def _threads_of_libraries(threads: int | None) -> AbstractContextManager[None]:
    """For a process that is started in it: OpenMP, OpenBLAS and MKL read theirs as they load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return environment(dict.fromkeys(names, str(threads)) if threads else {})


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
        multiplied = _multiplied(library, sizes)
        found.append(_ceiling(name, value_bytes * side * outputs, job.threads, read, multiplied))
    best = found[0]
    for other in found[1:]:
        best = higher(best, other)
    if job.integers and (job.engine == "ort" or job.engine.startswith("openvino")):
        best = _or_as_integers(best, job.threads, sizes)
    if job.engine == "ort" and job.compute != "fp32":
        # Some CPUs multiply halves faster than fp32, which the probe is in.
        return replace(best, flops_per_s=None, flops_highest=None, flops_samples=[])
    return best


def _or_as_integers(best: Ceiling, threads: int | None, sizes: Sizes) -> Ceiling:
    """With the rate of products of int8, where that is the higher one: up to four times fp32's."""
    if not is_installed("onnxruntime"):
        return replace(best, flops_per_s=None, flops_highest=None, flops_samples=[])
    rates = _multiplied(lambda *shape: _onnxruntime(shape, threads, integers=True), sizes)
    return higher(best, _ceiling(best.by, best.working_set, threads, best.read_samples, rates))


def _libraries(job: CeilingJob) -> Iterator[tuple[str, int, Library]]:
    """Name, bytes of a value, and library."""
    if not job.engine.endswith("cuda"):
        yield "numpy", 4, _numpy
    if job.engine == "ort":
        yield "onnxruntime", 4, lambda *shape: _onnxruntime(shape, job.threads)
    elif job.engine.startswith("openvino"):
        from llx.bench.sessions.openvino import computed_in

        inference = OPENVINO[job.engine]
        yield (
            "openvino",
            computed_in(inference).size,
            lambda *shape: _openvino(shape, job.threads, inference),
        )
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


def _onnxruntime(shape: tuple[int, ...], threads: int | None, integers: bool = False) -> Product:
    """A product in fp32, or of uint8 by int8, which is what its W8A8 multiplies."""
    import onnx
    import onnxruntime

    rows, inputs, outputs = shape
    x, w = _values(rows, inputs), _values(inputs, outputs)
    if integers:
        x, w = (100 * x).astype(np.uint8), (100 * w).astype(np.int8)
    op = "MatMulInteger" if integers else "MatMul"
    value, of = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", "weight"], ["y"])],
        "product",
        [value("x", of(x.dtype), [rows, inputs])],
        [value("y", of(np.dtype(np.int32 if integers else np.float32)), [rows, outputs])],
        [onnx.numpy_helper.from_array(w, "weight")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": x})


def _openvino(shape: tuple[int, ...], threads: int | None, inference: Inference) -> Product:
    from llx.bench.sessions.openvino import matrix_product

    rows, inputs, outputs = shape
    x, weight = _values(rows, inputs), _values(inputs, outputs)
    return matrix_product(x, weight, threads, inference)


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
    return _ceiling("a copy on the device", count, job.threads, rates, [])


def _multiplied(library: Library, sizes: Sizes) -> list[float]:
    """FLOPs a second, in each of several moments.

    A library without kernels for a type takes hundreds of times as long: PyTorch in fp16 on a CPU
    that has none, 15 s a product of 512 rows (reports/LOG.md, 2026-11-30). So the rows are what a
    few of them leave time for.
    """
    side = sizes.side
    product = library(PILOT_ROWS, side, side)
    product()
    start = clock.now_ns()
    product()
    row_s = (clock.now_ns() - start) / 1e9 / PILOT_ROWS
    rows = min(sizes.rows, max(PILOT_ROWS, int(LONGEST_S / max(row_s, 1e-9))))
    if rows > PILOT_ROWS:
        product = library(rows, side, side)
    return _rates(product, 2 * rows * side * side)


def _rates(product: Product, amount: int) -> list[float]:
    """Amount a second, in each of several moments, after a run that does not count."""
    product()
    return [_rate(product, amount) for _ in range(MOMENTS)]


def _rate(product: Product, amount: int) -> float:
    """Amount a second, of as many runs as a moment has, of one at least."""
    start, runs, seconds = clock.now_ns(), 0, 0.0
    while seconds < MOMENT_S:
        product()
        runs += 1
        seconds = (clock.now_ns() - start) / 1e9
    return amount * runs / seconds
