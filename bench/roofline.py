"""What a step must read: the physics that a measured time is held against."""

from __future__ import annotations

from llx.llama.spec import LlamaSpec
from llx.precision import BYTES, Precision


def bytes_per_decode_step(spec: LlamaSpec, precision: Precision, filled: int, rows: int) -> int:
    """Bytes that one decode step must read: every weight once, and the filled KV of every row.

    Of an untied embedding only the rows looked up are read; a tied one is read whole, for the
    logits. Activations stay in cache.
    """
    value_bytes = BYTES[precision.compute]
    weights = spec.parameters
    if not spec.tied:
        weights += (rows - spec.vocab) * spec.dim
    cache = 2 * spec.layers * spec.kv_dim * filled * rows
    return value_bytes * (weights + cache)
