"""`torch`, `torch-cuda`: the model in eager PyTorch. In fp32 on the CPU it is the reference."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from llx.artifact import WEIGHTS, Artifact
from llx.bench.machine.threads import usable_threads
from llx.bench.session import Details, Memory, Tokens
from llx.errors import Lacking
from llx.graphs.contract import Limits, StepGuard
from llx.llama.model import Llama, empty_cache
from llx.llama.quantized import quantize_modules
from llx.llama.spec import LlamaSpec
from llx.precision import PRECISIONS, Compute, Precision


def load_llama(
    spec: LlamaSpec,
    weights: Path,
    precision: Precision = PRECISIONS["fp32"],
    dense: frozenset[str] = frozenset(),
) -> Llama:
    """A model over a weights file, mapped into memory rather than copied.

    The file decides what is computed in; `precision` and `dense`, which layers are quantized.
    """
    with safe_open(weights, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("_pad")}
    with torch.device("meta"):
        model = quantize_modules(Llama(spec, len(state["rope.cos"])), precision, dense)
    model.load_state_dict(state, assign=True)
    return model.eval()


class TorchSession:
    """Eager PyTorch over a model's own in-place cache."""

    reads_capacity = False
    spare = 0  # slots of the cache beyond its capacity

    def __init__(
        self,
        model: Llama,
        limits: Limits,
        rows: int = 1,
        weights: str = "given",
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(usable_threads())
        self.limits, self.rows, self.weights = limits, rows, weights
        self._guard = StepGuard(limits, rows)
        self._model, self._device = model.to(device), torch.device(device)
        self._dtype = model.norm.weight.dtype
        cache = empty_cache(model.spec, rows, limits.capacity + self.spare, self._dtype)
        self._cache = [tensor.to(device) for tensor in cache]
        self._logits: torch.Tensor | None = None

    @classmethod
    def open(cls, artifact: Artifact, rows: int = 1, device: str = "cpu") -> TorchSession:
        """A session over the artifact's own weights; few bits are dequantized at every step."""
        manifest = artifact.manifest
        weights = artifact.path(WEIGHTS)
        model = load_llama(manifest.spec, weights, manifest.precision, manifest.dense)
        return cls(model, manifest.contract.limits, rows, artifact.weights_in_words, device)

    @torch.inference_mode()
    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step: on the CPU PyTorch is done when it returns."""
        self._guard.admit(tokens, positions, logit_index)
        self._logits = self._run(tokens, positions, logit_index)

    def _run(self, *inputs: Tokens) -> torch.Tensor:
        on_device = [torch.from_numpy(array).to(self._device) for array in inputs]
        logits: torch.Tensor = self._model(*on_device, self._cache)[0]
        return logits

    def sync(self) -> None:
        """Wait for the GPU; on the CPU there is nothing to wait for."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]."""
        assert self._logits is not None, "no step has run"
        logits: NDArray[np.float32] = self._logits.cpu().numpy()
        return logits

    def reset(self) -> None:
        """Forget the cache; its bytes stay, and are overwritten before they are read."""
        self._guard.reset()

    def memory(self) -> Memory:
        """Size of the cache, and PyTorch's own record of the most that it held on a GPU."""
        on_gpu = self._device.type == "cuda"
        return Memory(
            cache_bytes=sum(t.nbytes for t in self._cache),
            device_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
        )

    def close(self) -> None:
        """Let go of model and cache."""
        del self._model, self._cache
        gc.collect()

    def details(self) -> Details:
        """Version and threads of PyTorch, and how it treats the cache."""
        return {
            "torch": str(torch.__version__),
            "cache": "in-place",
            "reads_capacity": self.reads_capacity,
            "threads": torch.get_num_threads(),
        }


def require_cuda() -> None:
    """Raise `Lacking` where this PyTorch cannot use the GPU."""
    if not torch.cuda.is_available():
        raise Lacking(
            f"PyTorch {torch.__version__} does not use the GPU",
            "install a build of PyTorch for the CUDA of this driver: https://pytorch.org",
        )


def matrix_product(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    compute: Compute,
    threads: int | None,
    device: str,
) -> Callable[[], None]:
    """The product [rows, in] × [in, out] as PyTorch computes it, done when the call returns."""
    if threads:
        torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[compute]
    left, right = (torch.from_numpy(array).to(dtype).to(device) for array in (x, weight))

    @torch.inference_mode()
    def product() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    return product
