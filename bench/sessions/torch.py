"""`torch`: the model in eager PyTorch on the CPU. In fp32 it is the reference."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from llx.artifact import WEIGHTS, Artifact
from llx.bench.sessions.base import Memory, Tokens
from llx.graphs.contract import Limits, StepGuard
from llx.llama.model import Llama, empty_cache
from llx.llama.quantized import quantize_linears
from llx.llama.spec import LlamaSpec
from llx.precision import Linear


def load_llama(spec: LlamaSpec, weights: Path, linear: Linear = "dense") -> Llama:
    """A model over a weights file, mapped into memory rather than copied."""
    with torch.device("meta"):
        model = Llama(spec)
        if linear == "int8":
            quantize_linears(model)
    with safe_open(weights, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("_pad")}
    model.load_state_dict(state, assign=True)
    return model.eval()


class TorchSession:
    """Eager PyTorch over a model's own in-place cache."""

    def __init__(self, model: Llama, limits: Limits, rows: int = 1, weights: str = "given") -> None:
        self.limits, self.rows, self.weights = limits, rows, weights
        self._guard = StepGuard(limits, rows)
        self._model = model
        self._dtype = model.embed.weight.dtype
        self._cache = empty_cache(model.spec, rows, limits.capacity, self._dtype)
        self._logits: NDArray[np.float32] | None = None

    @classmethod
    def open(cls, artifact: Artifact, rows: int = 1) -> TorchSession:
        """A session over the artifact's own weights; int8 ones are dequantized at every step."""
        manifest = artifact.manifest
        model = load_llama(manifest.spec, artifact.path(WEIGHTS), manifest.precision.linear)
        return cls(model, manifest.contract.limits, rows, artifact.weights_in_words)

    @torch.inference_mode()
    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step: eager PyTorch on the CPU is done when it returns."""
        self._guard.admit(tokens, positions, logit_index)
        inputs = [torch.from_numpy(array) for array in (tokens, positions, logit_index)]
        logits, _ = self._model(*inputs, self._cache)
        self._logits = logits.numpy()

    def sync(self) -> None:
        """Nothing to wait for on the CPU."""

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]."""
        assert self._logits is not None, "no step has run"
        return self._logits

    def reset(self) -> None:
        """Forget the cache; its bytes stay, and are overwritten before they are read."""
        self._guard.reset()

    def memory(self) -> Memory:
        """Size of the cache."""
        return Memory(cache_bytes=sum(t.nbytes for t in self._cache))

    def close(self) -> None:
        """Let go of model and cache."""
        del self._model, self._cache
        gc.collect()

    def details(self) -> dict[str, Any]:
        """Version and threads of PyTorch."""
        return {"torch": torch.__version__, "threads": torch.get_num_threads()}
