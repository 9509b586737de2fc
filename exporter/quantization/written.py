"""Text to calibrate on that the model writes itself: no corpus, in every language that it knows.

What a model writes is what it expects, of all kinds that it was trained on, so that rounding
learns the directions of none (Williams et al., 2024, arXiv:2410.17170). It is drawn token by token
from the model's own distribution, many samples side by side, with one block's weights at a time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llx.exporter.load import embedded, loaded_block
from llx.exporter.quantization.logits import Head
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.sources import TensorSource
from llx.llama.model import Rope
from llx.llama.spec import LlamaSpec
from llx.llama.weights import weights_of
from llx.progress import Progress, silent

SEED = 0
# Every token reads all weights once, however many samples it is drawn for: they are short and many.
SAMPLE = 128
HELD_BYTES = 2 << 30  # of the samples' KV caches; and of the weights, where all of them fit


def written_windows(
    source: TensorSource,
    windows: int,
    window: int,
    first: int | None,
    known: int,
    store: CalibrationStore,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Windows of tokens [windows, window], each some samples of the model one behind the other.

    `first`: the token that a text begins with, or None: one drawn from the vocabulary. `known`: how
    many tokens have a meaning. Deterministic on one machine, whether or not it was interrupted: the
    store keeps each batch of samples.
    """
    length = min(SAMPLE, window)
    each = -(-window // length)
    samples = windows * each
    batch = min(samples, max(1, HELD_BYTES // (length * _cache_bytes(source.spec))))
    found = []
    for start in range(0, samples, batch):
        tokens = store.written(start)
        if tokens is None:
            starts = _starts(first, known, min(batch, samples - start), start)
            told = _part_of(progress, start * length, samples * length)
            tokens = _written(source, starts, length, known, start, told)
            store.keep_written(start, tokens)
        found.append(tokens)
    return np.concatenate(found).reshape(windows, each * length)[:, :window]


def _starts(first: int | None, known: int, samples: int, seed: int) -> Tensor:
    if first is not None:
        return torch.full((samples, 1), first)
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randint(known, (samples, 1), generator=generator)


def _part_of(progress: Progress, before: int, whole: int) -> Progress:
    return lambda what, done, total, unit: progress(what, before + done, whole, unit)


@torch.inference_mode()
def _written(
    source: TensorSource, tokens: Tensor, length: int, known: int, seed: int, progress: Progress
) -> NDArray[np.int64]:
    """Samples [B, length] that begin with tokens [B, 1]."""
    spec, samples = source.spec, len(tokens)
    generator = torch.Generator().manual_seed(SEED + seed)
    head, rope = Head(source), Rope(spec, length)
    rope.fill(spec, torch.float32)
    shape = (samples, spec.kv_heads, length, spec.head_dim)
    caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(spec.layers)]
    block_of = lru_cache(None if _fits(spec) else 1)(lambda layer: loaded_block(source, layer))
    for at in range(length - 1):
        progress("writing", at * samples, length * samples, "token")
        positions = torch.full((samples, 1), at)
        hidden = embedded(source, tokens[:, -1:])
        for layer, (k_cache, v_cache) in enumerate(caches):
            hidden = block_of(layer)(hidden, positions, rope, k_cache, v_cache)[0]
        # Damaged weights give no numbers: calibration names the layer, from whatever is drawn here.
        logits = head.logits(hidden[:, 0])[:, :known].nan_to_num()
        drawn = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
        tokens = torch.cat([tokens, drawn], 1)
    progress("writing", length * samples, length * samples, "token")
    return tokens.numpy()


def _cache_bytes(spec: LlamaSpec) -> int:
    """Of one position of one sample, in fp32."""
    return 4 * 2 * spec.layers * spec.kv_dim


def _fits(spec: LlamaSpec) -> bool:
    """Whether the blocks' weights may be held, all of them in fp32."""
    blocks = (w for w in weights_of(spec) if w.name.startswith("layers."))
    return 4 * sum(int(np.prod(weight.shape)) for weight in blocks) <= HELD_BYTES
