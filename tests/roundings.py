"""Activations in 8 bits of two engines, where another order of sums cannot tell them apart.

A CPU's kernels add in an order of their own. That moves a value by 1e-6, and one that lies on the
edge of a rounding by a whole step: two right engines then differ by 0.03 in the logits of a
tiny model. So PyTorch is given ONNX Runtime's choice where the two round differently, and what is
left must agree as in fp32. A choice is taken for what it is: every one counts, and its value must
lie on that edge.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from llx.artifact import Artifact
from llx.bench.fidelity import linears
from llx.bench.session import Tokens
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.llama.quantized import FP8, FP8_MOST, QuantizedLinear, rounded
from tests import parity
from tests.checkpoints import SEED
from tests.conftest import vouched
from tests.parity import Parity

TOLERANCE = 1e-5  # what the order of sums moves in fp32: that of the dense models' tests
# Steps of int8 are 8/127 wide or wider, so within TOLERANCE of an edge lie 2 x 1e-5 x 127/8 of all
# inputs, 0.03 %. More than three times as many is no matter of edges.
MOST_MOVED = 1e-3
RANGES = {torch.int8: (-128, 127), FP8: (-FP8_MOST, FP8_MOST)}


@dataclass
class Roundings:
    """How two engines rounded the same inputs: how many, how many to different steps.

    `beyond`: how far the farthest input that they rounded otherwise was from the edge between their
    choices, in the input's own unit.
    """

    inputs: int = 0
    moved: int = 0
    beyond: float = 0.0

    def require_on_edges(self) -> None:
        """Fail where the engines do not round the same values."""
        assert self.inputs > 5000, self
        assert self.beyond <= TOLERANCE, self
        assert self.moved <= MOST_MOVED * self.inputs, self


class ToldOrt(OrtSession):
    """ONNX Runtime, which tells the inputs in 8 bits of every layer, step by step."""

    def __init__(self, artifact: Artifact, dialect: str) -> None:
        super().__init__(artifact, 1, dialect)
        model = onnx.load(artifact.graph(dialect), load_external_data=False)
        widths = {value.name: value.dims[0] for value in model.graph.initializer if value.dims}
        self._told = {
            module: (probe[1], widths[f"{module}.weight"])
            for module, probe in linears._probes(model).items()
            if len(probe) == 3
        }
        self._fp8 = artifact.manifest.precision.linear == "fp8"
        self._dtype = np.uint8 if dialect == "ort" or self._fp8 else np.int8
        self.steps: deque[dict[str, np.ndarray]] = deque()

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        kept = {}
        for module, (name, width) in self._told.items():
            kept[module] = np.empty((*tokens.shape, width), self._dtype)
            kind = onnx.TensorProto.FLOAT8E4M3FN if self._fp8 else self._dtype
            self._binding.bind_output(
                name, "cpu", 0, kind, kept[module].shape, kept[module].ctypes.data
            )
        super().enqueue(tokens, positions, logit_index)
        self.steps.append({name: linears._values(kept[name], self._fp8) for name in kept})


class FollowingTorch(TorchSession):
    """Eager PyTorch, which takes the other's choice where the two round differently."""

    def follow(self, steps: deque[dict[str, np.ndarray]]) -> Roundings:
        """Follow what is noted there, from the next step on; counted in what is returned."""
        self._steps, found = steps, Roundings()
        for module, layer in self._model.named_modules():
            if isinstance(layer, QuantizedLinear):
                layer.register_forward_pre_hook(self._chosen(module, found))
        return found

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        self._step = self._steps.popleft()
        super().enqueue(tokens, positions, logit_index)

    def _chosen(self, module: str, found: Roundings) -> Callable[..., tuple[Tensor]]:
        def hook(layer: QuantizedLinear, inputs: tuple[Tensor]) -> tuple[Tensor]:
            (x,), theirs = inputs, torch.from_numpy(self._step[module])
            step = layer.input_scale
            steps = (x / step).clamp(*RANGES[layer.weight.dtype])
            ours = rounded(steps, layer.weight.dtype)
            moved = ours != theirs
            # Ours is the nearest: it is nearer than theirs by twice what is to the edge.
            beyond = float(((theirs - steps).abs() - (ours - steps).abs()).max() * step / 2)
            found.inputs += x.numel()
            found.moved += int(moved.sum())
            found.beyond = max(found.beyond, beyond)
            return (torch.where(moved, theirs * step, x),)

        return hook


def _told(artifact: Artifact, dialect: str, folder: Path) -> Artifact:
    """A copy of an artifact whose graph has its layers' inputs in 8 bits among its outputs."""
    folder = Path(shutil.copytree(artifact.folder, folder / f"told-{dialect}"))
    path = folder / f"{dialect}.onnx"
    model = onnx.load(path, load_external_data=False)
    names = [probe[1] for probe in linears._probes(model).values() if len(probe) == 3]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    path.write_bytes(model.SerializeToString())
    return vouched(replace(artifact, folder=folder), path.name)


def compare(
    artifact: Artifact, folder: Path, dialect: str = "standard"
) -> tuple[Parity, Roundings, ToldOrt, FollowingTorch]:
    """Logits on the same roundings, how those were, and the sessions, for their caches."""
    ort, eager = ToldOrt(_told(artifact, dialect, folder), dialect), FollowingTorch.open(artifact)
    roundings = eager.follow(ort.steps)
    found = parity.compare(ort, eager, SEED)
    assert not ort.steps
    return found, roundings, ort, eager
