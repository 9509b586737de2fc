"""`torch-compile`, `torch-compile-cuda`: the model of `torch`, compiled by `torch.compile`."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._dynamo import config as dynamo_config
from torch._dynamo import mark_dynamic
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from llx.bench import clock
from llx.bench.session import Details, Tokens
from llx.bench.sessions.torch import TorchSession, require_cuda
from llx.errors import Lacking, LlxError

BACKEND, MODE = "inductor", "default"
COMPILERS = ("g++", "clang++")  # what Inductor looks for where CXX names none


class CompiledSession(TorchSession):
    """The layers compiled, one graph for all of them; what comes before and after is eager.

    A step of one token is other code than one of several: both are compiled when the session opens,
    and their lengths are symbols in them. A graph is given the filled slots of the cache, a view
    whose length is a symbol too. It begins at two, since one would be a kind of its own, and the
    cache has a slot that is never filled, since the strides of a view of all slots would follow
    from its length.
    """

    spare = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for block in self._model.layers:
            block.compile(fullgraph=True, backend=BACKEND, mode=MODE)
        graphs, hits = _graphs(), _cache_hits()
        start = clock.now_ns()
        for count in {1, self.limits.max_new_tokens}:
            self._compile(count)
        self.sync()
        self._build_s = (clock.now_ns() - start) / 1e9
        self._graphs = _graphs()
        self._made, self._found = self._graphs - graphs, _cache_hits() - hits

    def _run(self, *inputs: Tokens) -> torch.Tensor:
        logits = self._step(*inputs)
        if _graphs() != self._graphs:
            raise LlxError(
                f"PyTorch {torch.__version__} compiled within a step, whose time is not its own",
                "bench with --engine torch, and report what TORCH_LOGS=recompiles says",
            )
        return logits

    def _step(self, *inputs: Tokens, mark: Callable[..., None] = lambda *_: None) -> torch.Tensor:
        # Copies, since a row of a longer array keeps its stride, which would be another kind.
        on_device = [
            torch.empty(array.shape, dtype=torch.int64, device=self._device).copy_(
                torch.from_numpy(array)
            )
            for array in inputs
        ]
        filled = max(2, int(inputs[1].max()) + 1)
        cache = [tensor[:, :, :filled] for tensor in self._cache]
        for tensor in cache:
            mark(tensor, 2)
        for tensor in on_device:
            mark(tensor, 1)
        logits: torch.Tensor = self._model(*on_device, cache)[0]
        return logits

    @torch.inference_mode()
    def _compile(self, count: int) -> None:
        """A step of so many tokens, into slots that are written again before they are read."""
        positions = np.tile(np.arange(count), (self.rows, 1))

        def mark(tensor: torch.Tensor, dim: int) -> None:
            if tensor.shape[dim] > 1:
                mark_dynamic(tensor, dim)

        # The activations that go into the first layer; all others run the graph that it makes.
        hook = self._model.embed.register_forward_hook(lambda _, __, out: mark(out, 1))
        try:
            # Another session may have compiled these layers for another batch: that is no symbol.
            with dynamo_config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
                self._step(np.zeros_like(positions), positions, positions[:, -1:], mark=mark)
        except (TorchDynamoException, RuntimeError) as error:
            raise _not_compiled(error) from error
        finally:
            hook.remove()

    def details(self) -> Details:
        """Also how it was compiled, and how long that took: it is within the time to load."""
        return {
            **super().details(),
            "compiled": "each layer",
            "backend": BACKEND,
            "mode": MODE,
            "build_s": self._build_s,
            "graphs": self._made,
            "graphs_from_cache": self._found,
        }


def _graphs() -> int:
    """Graphs that this process has compiled."""
    return int(counters["stats"]["unique_graphs"])


def _cache_hits() -> int:
    """Graphs that this process found compiled by an earlier one."""
    found = counters["aot_autograd"]["autograd_cache_hit"]
    return int(found or counters["inductor"]["fxgraph_cache_hit"])


def _not_compiled(error: Exception) -> LlxError:
    said = next((line.strip() for line in str(error).splitlines() if "error" in line.lower()), "")
    return Lacking(
        f"torch.compile fails here: {said or type(error).__name__}",
        "install a C++ compiler and Python's headers, or bench with --engine torch",
    )


def require_compiler() -> None:
    """Raise `Lacking` where Inductor has no C++ compiler for its kernels."""
    asked = os.environ.get("CXX")
    names = (asked,) if asked else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise Lacking(
            f"torch.compile needs a C++ compiler, and there is no {' or '.join(names)} here",
            "install g++ (Debian: apt install g++), or bench with --engine torch",
        )


def require_triton() -> None:
    """Raise `Lacking` where Inductor cannot make kernels for the GPU."""
    require_cuda()
    if importlib.util.find_spec("triton") is None:
        raise Lacking(
            "torch.compile needs triton for a GPU, which is not installed",
            "install a build of PyTorch for the CUDA of this driver, or bench with --engine "
            "torch-cuda",
        )
