"""`ort`, `ort-cuda`, `ort-tensorrt`: ONNX Runtime over an artifact's graph of any dialect."""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench import clock
from llx.bench.machine import large_pages
from llx.bench.machine.malloc import given_back
from llx.bench.machine.threads import usable_threads
from llx.bench.session import Details, Memory, Tokens, Unfit, failed_step
from llx.bench.sessions import GRAPHS_OF_ORT
from llx.bench.sessions.ort_arithmetic import CPU, arithmetic_of, session_options, settings_of
from llx.errors import BadInput, Lacking, LlxError, one_line, to_install
from llx.files import cache_folder
from llx.graphs.contract import (
    INPUT_IDS,
    LOGIT_INDEX,
    LOGITS,
    PAST,
    POSITION_IDS,
    PRESENT,
    StepGuard,
    cache_names,
)
from llx.graphs.dialects import dialect_named
from llx.graphs.dialects.ort import groups
from llx.manifest import WEIGHTS
from llx.precision import Compute
from llx.processes import environment
from llx.refused import refused
from llx.tensorrt import load

NAME = "ONNX Runtime"  # to who reads of it
Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# On a GPU it would round fp32 to TF32's 10 bits by default, which is no fp32 any more.
CUDA_OPTIONS = {"use_tf32": "0"}
INSTALLS = {
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]', for the CUDA of this driver",
    "tensorrt": "install the TensorRT that this onnxruntime-gpu was built with, or bench with "
    "--engine ort-cuda",
}
# Tokens that attend at a time. GroupQueryAttention computes all scores of a prefill, those that no
# token may see as well: 512 tokens of SmolLM2-135M attend in 210 ms at once, in halves in 143.
CHUNK = 256
# Read by GroupQueryAttention as a session is made. Its flash kernel takes a twelfth more time for a
# prefill of 512 and for a step at that depth, an eighth and more at 4096; but the other one holds
# all scores of a chunk.
NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
MOST_SCORES = 256 << 20  # bytes
RECORD_PROVIDERS = "session.record_ep_graph_assignment_info"
NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class OrtSession:
    """One graph, its cache bound once.

    In place, past and present share their memory. A delta graph writes what is new into a scratch,
    and the session copies it from there into its slots; on the CPU alone. On a GPU the cache lies
    in its memory, and only ids and logits cross.

    Without a dialect it is the graph made for this provider, where the artifact has it.
    """

    def __init__(
        self,
        artifact: Artifact,
        rows: int = 1,
        dialect: str | None = None,
        provider: Provider = "cpu",
    ) -> None:
        if dialect is None:
            dialect = next(name for name in GRAPHS_OF_ORT[provider] if name in artifact.dialects)
        spelled = dialect_named(dialect)
        contract = spelled.contract_of(artifact.manifest.contract)
        require_computed(contract.compute)
        self._delta = spelled.cache == "delta"
        self._dialect = dialect
        self._attends_by_row = dialect == "ort" and groups(contract.head_dim)
        self.reads_capacity = not self._attends_by_row
        if provider != "cpu" and dialect != "standard":
            raise BadInput(
                f"ort-{provider} runs no {dialect}", "let it run the graph standard.onnx"
            )
        self.limits, self.rows = contract.limits, rows
        self.weights = artifact.weights_in_words
        self._settings = settings_of(artifact.manifest.precision, dialect)
        self._arithmetic = arithmetic_of(artifact.manifest.precision, dialect)
        self._guard = StepGuard(self.limits, rows)
        self._options = provider_options(provider, artifact)
        options = session_options(artifact.manifest.precision, dialect)
        options.add_session_config_entry(RECORD_PROVIDERS, "1")
        graph = artifact.graph(dialect)
        scores = 4 * artifact.manifest.spec.heads * CHUNK * contract.limits.capacity
        whole = self._attends_by_row and scores <= MOST_SCORES
        # MatMulNBits reads many places at once: large pages save it a tenth of a step. The products
        # of fp32 and of W8A8 read in order, and gain nothing.
        enlarges = provider == "cpu" and artifact.manifest.precision.weight_only
        before = large_pages.blocks() if enlarges else set()
        with ExitStack() as loading:
            loading.enter_context(artifact.held(graph.name, WEIGHTS))
            if enlarges:
                loading.enter_context(given_back())
            if whole:
                self._settings[NO_FLASH] = os.environ.get(NO_FLASH, "1")  # what the user says holds
                loading.enter_context(environment({NO_FLASH: self._settings[NO_FLASH]}))
            self._session = loaded(graph, options, str(graph), list(self._options.items()))
        new = large_pages.blocks() - before if enlarges else set()
        self._large_pages = large_pages.enlarge(new)
        if self._session.get_providers()[0] != PROVIDERS[provider]:  # it falls back to another
            name = PROVIDERS[provider].removesuffix("ExecutionProvider")
            raise Lacking(f"ONNX Runtime cannot load its {name} provider here", INSTALLS[provider])
        shape = (rows, contract.kv_heads, contract.limits.capacity, contract.head_dim)
        dtype = NUMPY_DTYPES[contract.compute]
        self._past, self._present = (cache_names(contract.layers, end) for end in (PAST, PRESENT))
        self._cache = [unfilled(shape, dtype) for _ in self._past]
        self._cache_bytes = sum(cache.nbytes for cache in self._cache)
        self._binding = self._session.io_binding()
        self._new: list[NDArray[Any]] = []
        if provider != "cpu":
            self._bind_on_device()
        else:
            self._bind_cache(self._cache)
        self._logits = np.empty((rows, 0, self.limits.vocab), np.float32)
        self._build_s = self._build_engines() if provider == "tensorrt" else None

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step; it is done when this returns, on a GPU as well."""
        self._guard.admit(tokens, positions, logit_index)
        rows, count = tokens.shape
        # GroupQueryAttention takes several tokens of several rows into an empty cache alone.
        goes_on = rows > 1 and count > 1 and bool(positions[:, 0].any())
        if self._attends_by_row and (goes_on or count > CHUNK):
            self._run_in_parts(tokens, positions, logit_index)
        else:
            self._run(tokens, positions, logit_index)

    def _run_in_parts(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Row by row, `CHUNK` tokens at a time."""
        logits = np.empty((*logit_index.shape, self.limits.vocab), np.float32)
        for row, index in enumerate(logit_index):
            self._bind_cache([cache[row : row + 1] for cache in self._cache])
            for first in range(0, tokens.shape[1], CHUNK):
                part = np.s_[row : row + 1, first : first + CHUNK]
                here = (first <= index) & (index < first + CHUNK)
                self._run(tokens[part], positions[part], index[None, here] - first)
                logits[row, here] = self._logits[0]
        self._bind_cache(self._cache)
        self._logits = logits

    def _run(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        shape = (*logit_index.shape, self.limits.vocab)
        if self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
        steps = {INPUT_IDS: tokens, POSITION_IDS: positions, LOGIT_INDEX: logit_index}
        for name, array in steps.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._binding.bind_output(LOGITS, "cpu", 0, np.float32, shape, self._logits.ctypes.data)
        if self._delta:
            self._bind_new(tokens.shape[1])
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # of no common ancestor either
            raise failed_step(NAME, error) from None
        if self._delta:
            self._write_new(positions[:, 0])

    def _build_engines(self) -> float:
        """Let TensorRT build for the longest step and the shortest, and say how long it took.

        It builds within a step whose shape lies outside of all that it has seen. Slots that are
        written here are written again before they are read.
        """
        start = clock.now_ns()
        for count in (self.limits.max_new_tokens, 1):
            positions = np.tile(np.arange(count), (self.rows, 1))
            self._run(np.zeros_like(positions), positions, positions[:, -1:])
        self.sync()
        return (clock.now_ns() - start) / 1e9

    def _bind_cache(self, caches: list[NDArray[Any]]) -> None:
        """Caches of some rows, whole, as past; and as present unless that is the new alone."""
        for name, cache in zip(self._past, caches, strict=True):
            self._binding.bind_input(name, "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
        if not self._delta:
            self._bind_present(caches)

    def _bind_on_device(self) -> None:
        """Give the cache to the GPU, past and present in the same memory."""
        self._on_device = [
            onnxruntime.OrtValue.ortvalue_from_numpy(cache, "cuda", 0) for cache in self._cache
        ]
        self._cache = []
        for name, present, value in zip(self._past, self._present, self._on_device, strict=True):
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(present, value)

    def _bind_present(self, places: list[NDArray[Any]]) -> None:
        for name, place in zip(self._present, places, strict=True):
            self._binding.bind_output(name, "cpu", 0, place.dtype, place.shape, place.ctypes.data)

    def _bind_new(self, count: int) -> None:
        """A scratch for the keys and values of `count` new tokens, [B, Hkv, T, D] each."""
        if not self._new or self._new[0].shape[2] != count:
            rows, kv_heads, _, head_dim = self._cache[0].shape
            shape = (rows, kv_heads, count, head_dim)
            self._new = [np.empty(shape, cache.dtype) for cache in self._cache]
            self._bind_present(self._new)

    def _write_new(self, starts: Tokens) -> None:
        """Copy the scratch into the slots, each row's from its own start."""
        for cache, new in zip(self._cache, self._new, strict=True):
            for row, start in enumerate(starts):
                cache[row, :, start : start + new.shape[2]] = new[row]

    def sync(self) -> None:
        """Wait for the bound outputs."""
        self._binding.synchronize_outputs()

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]; overwritten by the next step of the same shape."""
        return self._logits

    def reset(self) -> None:
        """Forget the cache; its bytes stay, and are overwritten before they are read."""
        self._guard.reset()

    def memory(self) -> Memory:
        """Size of the cache."""
        return Memory(cache_bytes=self._cache_bytes)

    def close(self) -> None:
        """Let go of session and cache."""
        del self._binding, self._session, self._cache, self._new
        self._on_device = []

    def details(self) -> Details:
        """Version, threads and settings of ONNX Runtime, and which provider runs how much."""
        nodes: Counter[str] = Counter()
        if hasattr(self._session, "get_provider_graph_assignment_info"):  # newer than 1.24
            for part in self._session.get_provider_graph_assignment_info():
                nodes[part.ep_name] += len(part.get_nodes())
        asked = {
            f"{name.removesuffix('ExecutionProvider')}.{key}": value
            for name, options in self._options.items()
            for key, value in options.items()
        }
        built = {} if self._build_s is None else {"build_s": self._build_s}
        moved, could = (size >> 20 for size in self._large_pages)
        return {
            **self._settings,
            **asked,
            **built,
            "onnxruntime": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "nodes": ", ".join(f"{name} {n}" for name, n in nodes.most_common()) or None,
            "dialect": self._dialect,
            "arithmetic": self._arithmetic,
            "cache": "delta" if self._delta else "in-place",
            "reads_capacity": self.reads_capacity,
            "threads": usable_threads(),
            "large_pages": f"{moved} of {could} MiB" if could else None,
        }


def unfilled(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that take memory page by page, as they are written.

    numpy asks for pages of 2 MiB, of which a cache of 8192 positions that holds one of them would
    have one for each head and layer.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize, **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without such pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def loaded(
    graph: Path | bytes,
    options: onnxruntime.SessionOptions,
    name: str,
    providers: Sequence[str | tuple[str, dict[str, str]]] = (PROVIDERS["cpu"],),
) -> onnxruntime.InferenceSession:
    """A session over a graph; `name` is what an error calls it.

    Raises `Lacking` where the system refuses memory or threads, and `Unfit` where the graph is not
    loaded.
    """
    # Without it a GPU's provider is replaced by another, which is seen; a CPU has no other, and
    # ONNX Runtime would say at length that it tries again.
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    falls_back = int(first != PROVIDERS["cpu"])
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=list(providers), enable_fallback=falls_back
        )
    except Exception as error:  # a dozen classes of its own, of no common ancestor
        if of_system := refused(error):
            raise of_system from None
        raise Unfit(
            f"{NAME} does not load {name} ({one_line(error)})",
            "export again with --overwrite",
        ) from None


def require_computed(compute: Compute) -> None:
    """Raise `BadInput` where no graph that computes in a type is run."""
    if compute not in NUMPY_DTYPES:
        raise BadInput(
            f"ONNX Runtime's CPU has no kernels for {compute}, and llx binds no cache of it",
            "export with --precision fp32, or bench with --engine torch",
        )


def require_provider(provider: Provider) -> None:
    """Raise `Lacking` where this ONNX Runtime was built without a provider."""
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        name = PROVIDERS[provider].removesuffix("ExecutionProvider")
        raise Lacking(
            f"onnxruntime {onnxruntime.__version__} has no {name} provider",
            f"{to_install('gpu')} in an environment without onnxruntime: both bring that module",
        )
    onnxruntime.preload_dlls()  # of CUDA and cuDNN, from their wheels where there are any
    if provider == "tensorrt":
        with suppress(LlxError):  # its libraries may lie elsewhere than in a wheel
            load("trt")


def provider_options(provider: Provider, artifact: Artifact) -> dict[str, dict[str, str]]:
    """The providers to ask for, the first one first, and their options.

    TensorRT runs what it can, CUDA the rest. It may compute in fp16 or int8 only where the graph
    does. Its engines are kept in the user's own folder: what it finds there, it runs, so it must
    not look in a folder that came with an artifact.
    """
    if provider == "cpu":
        return {PROVIDERS["cpu"]: {}}
    cuda = {PROVIDERS["cuda"]: CUDA_OPTIONS}
    if provider == "cuda":
        return cuda
    precision = artifact.manifest.precision
    kept = _engines_folder(artifact)
    return {
        PROVIDERS["tensorrt"]: {
            "trt_fp16_enable": str(int(precision.compute == "fp16")),
            "trt_int8_enable": str(int(precision.linear == "int8")),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(kept),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(kept),
        },
        **cuda,
    }


def _engines_folder(artifact: Artifact) -> Path:
    folder: Path = cache_folder() / "ort-tensorrt" / onnxruntime.__version__ / artifact.sha256
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
