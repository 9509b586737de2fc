"""The reference of a check: windows through PyTorch, one block's weights at a time.

Every block runs twice. Wide, in a type that rounds far less than the graph's: what should come out.
And in the graph's own type, each value rounded where a graph stores it: how far that may be from
it. Their distance is what a type explains, amplified as this very model amplifies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llx.llama import ops
from llx.llama.model import Block, Rope, scaled
from llx.llama.spec import LlamaSpec
from llx.llama.streamed import BlockState
from llx.precision import Compute
from llx.progress import Progress, silent

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Taught:
    """What PyTorch says of windows of N tokens.

    `logits` and `rounded`: [W, N, V] in float32, wide and in the graph's type. `hidden`: the first
    window's wide hidden states, by layer from the embedding (-1) on, [N, dim] each. `explained`:
    by layer, the root mean square of what rounding adds to them, as a share of their own.
    """

    logits: NDArray[np.float32]
    rounded: NDArray[np.float32]
    hidden: dict[int, NDArray[np.float32]]
    explained: dict[int, float]


@dataclass(frozen=True)
class Ends:
    """What stands before and after the blocks: the embeddings of the windows [W, N, dim] in fp32,
    scaled, the last norm's weight, and the table of the logits in parts [rows, dim].
    """

    embedded: Tensor
    norm: Tensor
    table: Callable[[], Iterable[Tensor]]


@torch.inference_mode()
def teach(
    spec: LlamaSpec,
    ends: Ends,
    state_of: BlockState,
    compute: Compute,
    progress: Progress = silent,
) -> Taught:
    """Send windows, each from position 0, through the model, wide and rounded.

    `state_of` gives a layer's weights in fp32 by their names within the block.
    """
    wide = torch.float64 if compute == "fp32" else torch.float32
    narrow = torch.float32

    def stored(x: Tensor) -> Tensor:
        return x.to(TORCH[compute]).to(narrow)

    ways = [_Way(spec, ends.embedded.to(wide)), _Way(spec, stored(ends.embedded))]
    if compute != "fp32":
        ways[1].store = stored
    hidden, explained = {-1: _first(ways[0])}, {-1: _distance(*ways)}
    for layer in range(spec.layers):
        progress("reference", layer, spec.layers, "layer")
        state = state_of(layer)
        for way in ways:
            way.run(state, layer)
        hidden[layer], explained[layer] = _first(ways[0]), _distance(*ways)
    progress("reference", spec.layers, spec.layers, "layer")
    logits, rounded = (way.logits(ends, spec) for way in ways)
    return Taught(logits, rounded, hidden, explained)


class _Way:
    """Windows on their way through the blocks, in the type of their hidden state."""

    def __init__(self, spec: LlamaSpec, hidden: Tensor) -> None:
        self.spec, self.hidden = spec, hidden
        self.store: Callable[[Tensor], Tensor] | None = None
        self.rope = Rope(spec, hidden.shape[1])
        self.rope.fill(spec, hidden.dtype)

    def run(self, state: Any, layer: int) -> None:
        """Through one more block."""
        spec, (windows, length, _) = self.spec, self.hidden.shape
        dtype = self.hidden.dtype
        with torch.device("meta"):
            block = Block(spec, layer)
        own = {name: self._stored(tensor.to(dtype)) for name, tensor in state.items()}
        block.load_state_dict(own, assign=True)
        if self.store:
            _round(block, self.store)
            self.rope.cos, self.rope.sin = self.store(self.rope.cos), self.store(self.rope.sin)
        shape = (1, spec.kv_heads, length, spec.head_dim)
        k, v = (torch.zeros(shape, dtype=dtype) for _ in range(2))
        positions = torch.arange(length).unsqueeze(0)
        self.hidden = torch.cat(
            [block(self.hidden[w : w + 1], positions, self.rope, k, v)[0] for w in range(windows)]
        )

    def logits(self, ends: Ends, spec: LlamaSpec) -> NDArray[np.float32]:
        """[W, N, V], the table passing in parts."""
        dtype = self.hidden.dtype
        weight = self._stored(ends.norm.to(dtype))
        normed = self._stored(ops.rms_norm(self.hidden, weight, spec.norm_eps))
        parts = [
            self._stored(normed @ self._stored(rows.to(dtype)).T).float() for rows in ends.table()
        ]
        found: NDArray[np.float32] = scaled(torch.cat(parts, -1), spec.logit_scale).numpy()
        return found

    def _stored(self, x: Tensor) -> Tensor:
        return self.store(x) if self.store else x


def _round(block: Block, store: Callable[[Tensor], Tensor]) -> None:
    """Round what goes into and comes out of every norm and linear layer, and of the block."""
    for module in block.children():
        module.register_forward_pre_hook(lambda _, given: (store(given[0]),))
        module.register_forward_hook(lambda _, __, out: store(out))
    block.register_forward_hook(lambda _, __, out: (store(out[0]), *out[1:]))


def _first(way: _Way) -> NDArray[np.float32]:
    found: NDArray[np.float32] = way.hidden[0].float().numpy().copy()
    return found


def _distance(one: _Way, other: _Way) -> float:
    """Root mean square of the difference, as a share of the first's."""
    size = float(one.hidden.double().square().mean().sqrt())
    off = float((other.hidden.double() - one.hidden.double()).square().mean().sqrt())
    return off / size if size else off
