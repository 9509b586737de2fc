"""The forward pass block by block: one layer's weights at a time, whatever the model's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llx.llama.model import Block, Rope
from llx.llama.spec import LlamaSpec
from llx.progress import Progress, silent

BlockState = Callable[[int], Mapping[str, Tensor]]
"""Gives a layer's weights by their names within the block, such as `qkv.weight`."""


@torch.inference_mode()
def run_blocks(
    spec: LlamaSpec,
    hidden: Tensor,
    state_of: BlockState,
    watch: Callable[[int, Block], None] = lambda layer, block: None,
    progress: Progress = silent,
    what: str = "forward",
    first: int = 0,
    after: Callable[[int], None] = lambda layer: None,
) -> Tensor:
    """Send windows through every layer: activations [W, N, dim], written in place, and returned.

    Each window begins at position 0 and sees itself alone. `watch` is given each layer's block
    before anything runs through it: it may hook its modules, or put others in their place. `after`
    is called when a layer is done and let go of. At most one block's weights are held. `first` is
    the layer that `hidden` is given to; those before it are left out.
    """
    windows, length, _ = hidden.shape
    rope = Rope(spec, length)
    rope.fill(spec, hidden.dtype)
    positions = torch.arange(length).unsqueeze(0)
    shape = (1, spec.kv_heads, length, spec.head_dim)
    k_cache, v_cache = (torch.empty(shape, dtype=hidden.dtype) for _ in range(2))
    for layer in range(first, spec.layers):
        with torch.device("meta"):
            block = Block(spec, layer)
        block.load_state_dict(state_of(layer), assign=True)
        watch(layer, block)
        for w in range(windows):
            progress(what, layer * windows + w, spec.layers * windows, "window")
            hidden[w : w + 1] = block(hidden[w : w + 1], positions, rope, k_cache, v_cache)[0]
        del block
        after(layer)
    progress(what, spec.layers * windows, spec.layers * windows, "window")
    return hidden
