"""`ort`: ONNX Runtime over an artifact's graph, its cache updated in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.sessions.base import Memory, Tokens
from llx.errors import BadInput
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, LOGITS, POSITION_IDS, StepGuard, cache_names

NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class OrtSession:
    """One graph, its I/O bound once: past and present share their memory, logits have their own."""

    def __init__(self, artifact: Artifact, rows: int = 1, dialect: str = "standard") -> None:
        contract = artifact.manifest.contract
        if contract.compute not in NUMPY_DTYPES:
            raise BadInput(
                f"ONNX Runtime's CPU has no kernels for {contract.compute}",
                "export with --precision fp32, or bench with --engine torch",
            )
        self.limits, self.rows = contract.limits, rows
        self.weights = artifact.weights_in_words
        self._guard = StepGuard(self.limits, rows)
        self._session = onnxruntime.InferenceSession(
            artifact.graph(dialect), session_options(), providers=["CPUExecutionProvider"]
        )
        shape = (rows, contract.kv_heads, contract.limits.capacity, contract.head_dim)
        dtype = NUMPY_DTYPES[contract.compute]
        past, present = (cache_names(contract.layers, end) for end in ("past", "present"))
        self._cache = [np.zeros(shape, dtype) for _ in past]
        self._binding = self._session.io_binding()
        for read, written, cache in zip(past, present, self._cache, strict=True):
            place = ("cpu", 0, dtype, shape, cache.ctypes.data)
            self._binding.bind_input(read, *place)
            self._binding.bind_output(written, *place)
        self._logits = np.empty((rows, 0, self.limits.vocab), np.float32)

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step: the CPU provider is done when it returns."""
        self._guard.admit(tokens, positions, logit_index)
        shape = (*logit_index.shape, self.limits.vocab)
        if self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
        steps = {INPUT_IDS: tokens, POSITION_IDS: positions, LOGIT_INDEX: logit_index}
        for name, array in steps.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._binding.bind_output(LOGITS, "cpu", 0, np.float32, shape, self._logits.ctypes.data)
        self._session.run_with_iobinding(self._binding)

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
        return Memory(cache_bytes=sum(cache.nbytes for cache in self._cache))

    def close(self) -> None:
        """Let go of session and cache."""
        del self._binding, self._session, self._cache

    def details(self) -> dict[str, Any]:
        """Version, provider, threads and settings of ONNX Runtime."""
        return {
            "session.disable_quant_qdq": "1",
            "onnxruntime": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "threads": _threads(),
        }


def session_options() -> onnxruntime.SessionOptions:
    """Settings of every session: a thread for each core, Q/DQ as it stands in the graph.

    ONNX Runtime keeps the DequantizeLinear of weights for int8 kernels, which it has for fp32
    graphs alone: in fp16 every weight would be dequantized at every step. Told to leave such
    kernels be, it does that once, as it loads; activations are rounded to int8 steps all the same.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _threads() -> int:
    """One thread for each physical core that this process may use, as PyTorch does."""
    import psutil

    usable = len(psutil.Process().cpu_affinity() or [0])
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))
