"""What an artifact should be: its checkpoint's weights, or its own where that is gone.

And what PyTorch says with them, one block's weights at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llx.artifact import Artifact
from llx.errors import Lacking
from llx.exporter.load import OtherModel, block_state, embedded, exported_source
from llx.exporter.rescaled import Rescaled, rescaled
from llx.exporter.sources import TensorSource
from llx.exporter.weights import blocks_of
from llx.llama.model import scaled
from llx.llama.quantized import unpacked
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec, RopeSpec
from llx.llama.teacher import TORCH, Ends, Taught, teach
from llx.llama.weights import Weight, linear_of, weights_of
from llx.precision import Compute
from llx.progress import Progress

# Methods that fold factors into what stands before a quantized layer: norms, v and up.
FOLDING = ("smoothquant", "awq", "levelled", "plain")
ROPE = ("rope.cos", "rope.sin")


@dataclass(frozen=True)
class Different:
    """A weight that is not what the export would have written: what is there, and what should be.

    Both in float32, [in, out] of a projection, [V, dim] of a table.
    """

    name: str
    found: NDArray[np.float32]
    wanted: NDArray[np.float32]


@dataclass(frozen=True)
class Original:
    """The weights that a model should have.

    `source` is the checkpoint as it was exported; None where the artifact's own weights stand in,
    and then `why` says why.
    """

    artifact: Artifact
    source: TensorSource | None
    why: str = ""
    other_model: bool = False  # the checkpoint's configuration and the manifest differ

    @property
    def words(self) -> str:
        """Which weights these are."""
        if self.source is None:
            return "the artifact's own weights"
        return f"the checkpoint {self.artifact.manifest.source.label}"

    def taught(self, tokens: NDArray[np.int64], progress: Progress) -> Taught:
        """What PyTorch says of windows [W, N] with these weights."""
        spec, compute = self.artifact.manifest.spec, self._compute
        windows = torch.from_numpy(tokens)
        if self.source is None:
            with self.artifact.opened_weights("pt") as file:
                own = _Own(self.artifact, file)
                ends = Ends(own.embedded(windows), own.whole("norm.weight"), own.table)
                return teach(spec, ends, own.block, compute, progress)
        source, weights = self.source, {weight.name: weight for weight in weights_of(spec)}
        norm = _whole(source, weights["norm.weight"])
        table = weights["embed.weight" if spec.tied else "unembed.weight"]
        ends = Ends(
            embedded(source, windows),
            norm,
            lambda: (rows.float() for (rows,) in blocks_of(source, table)),
        )
        return teach(spec, ends, lambda layer: block_state(source, layer), compute, progress)

    def compared(self) -> list[Weight]:
        """The weights that the artifact holds as the checkpoint has them, cast.

        Left out: those in few bits, and those that factors were folded into.
        """
        manifest = self.artifact.manifest
        how = manifest.quantization
        folded = how is not None and how.method in FOLDING
        return [
            weight
            for weight in weights_of(manifest.spec)
            if linear_of(weight, manifest.precision, manifest.dense) == "dense"
            and not (folded and weight.name.startswith("layers."))
        ]

    def different(self, progress: Progress) -> Iterator[Different]:
        """Every compared weight that is not the checkpoint's, in the order of the file.

        Values pass in the export's own blocks; what differs is given as a whole. A rounding to the
        neighbour is no difference: another release of PyTorch may choose it.
        """
        weights = self.compared()
        for i, weight in enumerate(weights):
            progress("weights", i, len(weights), "weight")
            if self._differs(weight):
                with self.artifact.opened_weights("pt") as file:
                    found = _numbers(file.get_tensor(weight.name))
                wanted = self.wanted(weight.name)
                assert wanted is not None
                yield Different(weight.name, found, wanted)
        progress("weights", len(weights), len(weights), "weight")

    def wanted(self, name: str) -> NDArray[np.float32] | None:
        """A weight as the artifact should hold it; None where the model has none of that name."""
        assert self.source is not None
        for weight in weights_of(self.artifact.manifest.spec):
            if weight.name == name:
                return _numbers(_whole(self.source, weight).to(TORCH[self._compute]))
        return None

    def rescaled(self, progress: Progress) -> Iterator[Rescaled]:
        """Every part of a quantized artifact's layers that has a factor on it, in order."""
        assert self.source is not None
        manifest = self.artifact.manifest
        spec, how = manifest.spec, manifest.quantization
        assert how is not None
        with self.artifact.opened_weights("pt") as file:
            own = _Own(self.artifact, file)
            for layer in range(spec.layers):
                progress("weights in few bits", layer, spec.layers, "layer")
                stored, wanted = own.block(layer), block_state(self.source, layer)
                folded = how.method in FOLDING
                yield from rescaled(spec, layer, stored.__getitem__, wanted.__getitem__, folded)
        progress("weights in few bits", spec.layers, spec.layers, "layer")

    @property
    def _compute(self) -> Compute:
        return self.artifact.manifest.precision.compute

    def _differs(self, weight: Weight) -> bool:
        assert self.source is not None
        dtype = TORCH[self._compute]
        with self.artifact.opened_weights("pt") as file:
            stored, at = file.get_slice(weight.name), 0
            for blocks in blocks_of(self.source, weight):
                wanted = _stacked(blocks, weight).to(dtype)
                found = stored[at : at + len(wanted)]
                at += len(wanted)
                if not torch.equal(found, wanted) and not _close(found, wanted):
                    return True
        return False


def original_of(artifact: Artifact) -> Original:
    """The checkpoint where it is as it was exported, else the artifact's own weights."""
    try:
        return Original(artifact, exported_source(artifact))
    except OtherModel as why:
        return Original(artifact, None, why.message, other_model=True)
    except Lacking as why:
        return Original(artifact, None, why.message)


def stored_rope(artifact: Artifact) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """RoPE's tables as the artifact holds them, cosines and sines [positions, R/2] each."""
    with artifact.opened_weights("pt") as file:
        cos, sin = (_numbers(file.get_tensor(name)) for name in ROPE)
    return cos, sin


def made_rope(
    artifact: Artifact, rope: RopeSpec, positions: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """RoPE's tables at positions as an export would write them, [N, R/2] each."""
    manifest = artifact.manifest
    dtype = TORCH[manifest.precision.compute]
    cos, sin = (
        _numbers(torch.from_numpy(table).to(dtype))
        for table in rope_tables(rope, manifest.spec.rotated, positions)
    )
    return cos, sin


class _Own:
    """An artifact's weights in fp32, out of its open file; few bits are dequantized."""

    def __init__(self, artifact: Artifact, file: Any) -> None:
        self._file, self._manifest = file, artifact.manifest
        self._spec: LlamaSpec = artifact.manifest.spec
        self._held = set(file.keys())

    def whole(self, name: str) -> Tensor:
        """A weight, [in, out] of a projection."""
        stored: Tensor = self._file.get_tensor(name)
        if f"{name}_scale" not in self._held:
            return stored.float()
        scales: Tensor = self._file.get_tensor(f"{name}_scale").float()
        weight = next(w for w in weights_of(self._spec) if w.name == name)
        if weight.kind == "table":
            return stored.float() * scales[:, None]
        if stored.dtype.is_signed:
            return stored.float() * scales
        block = self._manifest.precision.block_of(weight.shape[0])
        spread = scales.repeat_interleave(block, 0)[: weight.shape[0]]
        return unpacked(stored, weight.shape).float() * spread

    def block(self, layer: int) -> dict[str, Tensor]:
        """One layer's weights by their names within the block."""
        prefix = f"layers.{layer}."
        names = [w.name for w in weights_of(self._spec) if w.name.startswith(prefix)]
        return {name.removeprefix(prefix): self.whole(name) for name in names}

    def embedded(self, tokens: Tensor) -> Tensor:
        """Their rows of the table, scaled, [W, N, dim]."""
        return scaled(self.whole("embed.weight")[tokens], self._spec.embed_scale)

    def table(self) -> Iterator[Tensor]:
        """The logits' table in one part."""
        yield self.whole("embed.weight" if self._spec.tied else "unembed.weight")


def _whole(source: TensorSource, weight: Weight) -> Tensor:
    """A weight of the model in fp32: [in, out] of a projection."""
    return torch.cat([_stacked(blocks, weight).float() for blocks in blocks_of(source, weight)])


def _stacked(blocks: list[Tensor], weight: Weight) -> Tensor:
    stacked = torch.cat(blocks)
    return stacked.T if weight.kind == "projection" else stacked


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether values are the same, or neighbours."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    info = torch.finfo(wanted.dtype)
    one, other = found.float(), wanted.float()
    slack = other.abs() * info.eps + info.smallest_normal * info.eps
    return bool(((one == other) | ((one - other).abs() <= slack)).all())


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    """In float32, since NumPy has no bfloat16."""
    found: NDArray[np.float32] = tensor.float().numpy()
    return found
