"""`ort`, `ort-cuda`: ONNX Runtime over an artifact's graph, whichever its dialect."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.sessions.base import Details, Memory, Tokens
from llx.errors import BadInput, Lacking
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
from llx.precision import Compute, Precision

Device = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# On a GPU it would round fp32 to TF32's 10 bits by default, which is no fp32 any more.
PROVIDER_OPTIONS = {"cpu": {}, "cuda": {"use_tf32": "0"}}
NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class OrtSession:
    """One graph, its cache bound once.

    In place, past and present share their memory. A delta graph writes what is new into a scratch,
    and the session copies it from there into its slots; on the CPU alone. On a GPU the cache lies
    in its memory, and only ids and logits cross.
    """

    reads_capacity = True

    def __init__(
        self,
        artifact: Artifact,
        rows: int = 1,
        dialect: str = "standard",
        device: Device = "cpu",
    ) -> None:
        contract = artifact.manifest.contract
        require_computed(contract.compute)
        self._delta = dialect_named(dialect).cache == "delta"
        if device == "cuda" and self._delta:
            raise BadInput(f"ort-cuda runs no {dialect}", "let it run the graph standard.onnx")
        self.limits, self.rows = contract.limits, rows
        self.weights = artifact.weights_in_words
        self._settings = settings_of(artifact.manifest.precision)
        self._guard = StepGuard(self.limits, rows)
        self._session = onnxruntime.InferenceSession(
            artifact.graph(dialect),
            session_options(artifact.manifest.precision),
            providers=[(PROVIDERS[device], PROVIDER_OPTIONS[device])],
        )
        if self._session.get_providers()[0] != PROVIDERS[device]:  # it falls back to the CPU
            raise Lacking(
                "ONNX Runtime cannot load its CUDA provider here",
                "pip install 'onnxruntime-gpu[cuda,cudnn]', for the CUDA of this driver",
            )
        shape = (rows, contract.kv_heads, contract.limits.capacity, contract.head_dim)
        dtype = NUMPY_DTYPES[contract.compute]
        past, self._present = (cache_names(contract.layers, end) for end in (PAST, PRESENT))
        self._cache = [np.zeros(shape, dtype) for _ in past]
        self._cache_bytes = sum(cache.nbytes for cache in self._cache)
        self._binding = self._session.io_binding()
        self._new: list[NDArray[Any]] = []
        if device == "cuda":
            self._bind_on_device(past)
        else:
            for name, cache in zip(past, self._cache, strict=True):
                self._binding.bind_input(name, "cpu", 0, dtype, shape, cache.ctypes.data)
            if not self._delta:
                self._bind_present(self._cache)
        self._logits = np.empty((rows, 0, self.limits.vocab), np.float32)

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step; it is done when this returns, on a GPU as well."""
        self._guard.admit(tokens, positions, logit_index)
        shape = (*logit_index.shape, self.limits.vocab)
        if self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
        steps = {INPUT_IDS: tokens, POSITION_IDS: positions, LOGIT_INDEX: logit_index}
        for name, array in steps.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._binding.bind_output(LOGITS, "cpu", 0, np.float32, shape, self._logits.ctypes.data)
        if self._delta:
            self._bind_new(tokens.shape[1])
        self._session.run_with_iobinding(self._binding)
        if self._delta:
            self._write_new(positions[:, 0])

    def _bind_on_device(self, past: list[str]) -> None:
        """Give the cache to the GPU, past and present in the same memory."""
        self._on_device = [
            onnxruntime.OrtValue.ortvalue_from_numpy(cache, "cuda", 0) for cache in self._cache
        ]
        self._cache = []
        for name, present, value in zip(past, self._present, self._on_device, strict=True):
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
        """Version, provider, threads and settings of ONNX Runtime."""
        return {
            **self._settings,
            "onnxruntime": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "threads": _threads(),
        }


def require_computed(compute: Compute) -> None:
    """Raise `BadInput` where no graph that computes in a type is run."""
    if compute not in NUMPY_DTYPES:
        raise BadInput(
            f"ONNX Runtime's CPU has no kernels for {compute}, and llx binds no cache of it",
            "export with --precision fp32, or bench with --engine torch",
        )


def require_cuda() -> None:
    """Raise `Lacking` where this ONNX Runtime is one for the CPU alone."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise Lacking(
            f"onnxruntime {onnxruntime.__version__} has no CUDA provider",
            "pip install 'llx[gpu]' in an environment without llx[cpu]: both bring onnxruntime",
        )
    onnxruntime.preload_dlls()  # of CUDA and cuDNN, from their wheels where there are any


def settings_of(precision: Precision) -> dict[str, str]:
    """What ONNX Runtime is to make of a graph's Q/DQ: no more and no less than it says.

    int4: DequantizeLinear and MatMul become one MatMulNBits as it loads, which reads four bits. By
    default that rounds activations to int8, without a word; level 1 keeps them as in fp32.

    All else: ONNX Runtime keeps the DequantizeLinear of weights for int8 kernels, which it has for
    fp32 graphs alone: in fp16 every weight would be dequantized at every step. Told to leave such
    kernels be, it does that once, as it loads; activations of W8A8 are rounded to int8 steps all
    the same. Weight-only int8 has a MatMulNBits as well, whose level 1 takes six times as long.
    """
    if precision.linear == "int4":
        return {"session.qdq_matmulnbits_accuracy_level": "1"}
    return {"session.disable_quant_qdq": "1"}


def session_options(precision: Precision) -> onnxruntime.SessionOptions:
    """Settings of every session: a thread for each core, Q/DQ as it stands in the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    for name, value in settings_of(precision).items():
        options.add_session_config_entry(name, value)
    return options


def _threads() -> int:
    """One thread for each physical core that this process may use, as PyTorch does."""
    import psutil

    usable = len(psutil.Process().cpu_affinity() or [0])
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))
