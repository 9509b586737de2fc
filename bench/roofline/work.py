"""What a step must read and compute: the physics that a time, measured or predicted, is held to.

Of a quantized model the linear layers of the blocks are stored in few bits and, where it was asked
for, the vocabulary's tables. Norms, biases and the cache stay in what the model computes in.

Letters: B rows, T new tokens, P filled positions, S cache capacity, L layers, H heads, Hkv KV
heads, D head size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from llx.devices import Device
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Weight, linear_of, weights_of
from llx.precision import BYTES, Precision
from llx.result import Ceiling, SpeedRow

SUSPECT_SHARE = 0.3  # of the probe's roofline: below it a slow path is likely
TOLERANCE = 0.03  # by which a share of the highest rates may be over 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What must be read and computed. `linear_flops`: the linear layers of the blocks alone."""

    read_bytes: int
    linear_flops: int
    other_flops: int

    @property
    def flops(self) -> int:
        """All floating-point operations; a multiplication and an addition are two."""
        return self.linear_flops + self.other_flops

    def __add__(self, other: Work) -> Work:
        return Work(
            read_bytes=self.read_bytes + other.read_bytes,
            linear_flops=self.linear_flops + other.linear_flops,
            other_flops=self.other_flops + other.other_flops,
        )


def weight_bytes(weight: Weight, precision: Precision, dense: frozenset[str] = frozenset()) -> int:
    """Bytes of one weight and its scales, which are symmetric and of the type computed in.

    int8, weight-only or not, and fp8: a byte a value, a scale per output channel. int4: half a byte
    a value, a scale per output channel and block of inputs, so 4.5 bits with fp16 scales and blocks
    of 32.
    `dense`: modules that are not quantized.
    """
    value_bytes, values = BYTES[precision.compute], math.prod(weight.shape)
    linear = linear_of(weight, precision, dense)
    if linear == "dense":
        return value_bytes * values
    if linear == "int4":
        inputs, outputs = weight.shape
        return -(-values // 2) + value_bytes * outputs * -(-inputs // precision.block_of(inputs))
    return values + value_bytes * weight.outputs


@lru_cache(maxsize=64)
def weights_bytes(
    spec: LlamaSpec, precision: Precision, dense: frozenset[str] = frozenset()
) -> int:
    """Bytes of every weight, a tied table counted once."""
    return sum(weight_bytes(weight, precision, dense) for weight in weights_of(spec))


def rope_table_bytes(spec: LlamaSpec, precision: Precision, capacity: int) -> int:
    """Bytes of the cosines and sines of the cache's positions, [capacity, pairs] each."""
    return BYTES[precision.compute] * capacity * spec.rotated


def stored_bytes(spec: LlamaSpec, precision: Precision, capacity: int) -> int:
    """Bytes of all that a weights file holds: weights and RoPE tables.

    The file adds a header and padding of some 150 bytes for each tensor.
    """
    return weights_bytes(spec, precision) + rope_table_bytes(spec, precision, capacity)


def cache_bytes(spec: LlamaSpec, precision: Precision, positions: int, rows: int) -> int:
    """Bytes of the keys and values of so many positions: 2·L·Hkv·D a position and row.

    Layers with a window have as many slots as the others.
    """
    return spec.layers * _layer_cache_bytes(spec, precision, positions, rows)


def _layer_cache_bytes(spec: LlamaSpec, precision: Precision, positions: int, rows: int) -> int:
    return BYTES[precision.compute] * 2 * spec.kv_dim * positions * rows


def seen_cache_bytes(
    spec: LlamaSpec, precision: Precision, new: int, filled: int, rows: int
) -> int:
    """Bytes of the keys and values that T new tokens see, after which P positions are filled.

    Through a window of W positions T tokens together see the last W + T − 1.
    """
    through = min(filled, (spec.window or 0) + new - 1)
    layers = len(spec.windowed)
    whole = (spec.layers - layers) * _layer_cache_bytes(spec, precision, filled, rows)
    return whole + layers * _layer_cache_bytes(spec, precision, through, rows)


def activation_bytes(
    spec: LlamaSpec, precision: Precision, new: int, capacity: int, rows: int
) -> int:
    """An estimate of what an engine holds beside weights and cache: its largest step, [B, T].

    The largest of three moments, whose buffers are reused by the others, and the boolean masks
    [B, T, S], one of each window and one without:

    - attention: residual, q, k, v, and its output: dim + 2·H·D + 2·Hkv·D values a token;
    - feed-forward: residual, gate and up, and their product: dim + 3·F values a token;
    - logits of all T positions, as computed and in fp32: V·(2 + 4) bytes a token in fp16.

    Attention is taken to be fused: an engine that stores its scores needs B·H·T·S values more. The
    scratch memory of an engine's kernels is not in it.
    """
    value_bytes = BYTES[precision.compute]
    attention = value_bytes * (spec.dim + 2 * spec.q_dim + 2 * spec.kv_dim)
    feed_forward = value_bytes * (spec.dim + 3 * spec.ffn_dim)
    logits = spec.vocab * (4 if value_bytes == 4 else value_bytes + 4)
    masks = len({kind.window for kind in spec.kinds}) * capacity
    return rows * new * (max(attention, feed_forward, logits) + masks)


def bytes_per_step(
    spec: LlamaSpec,
    precision: Precision,
    new: int,
    filled: int,
    rows: int,
    dense: frozenset[str] = frozenset(),
) -> int:
    """Bytes that a step of `new` tokens must read: every weight once, and the KV that is seen.

    Biases and the norms of heads are weights. An engine that masks what a window hides reads all
    that is filled, and so more than this. Of an untied embedding only the rows looked up are read;
    a tied one is read whole, for the logits. Activations stay in cache.
    """
    weights = weights_bytes(spec, precision, dense)
    if not spec.tied:
        unread = spec.vocab - min(rows * new, spec.vocab)
        table = weight_bytes(next(weights_of(spec)), precision)
        weights -= table // spec.vocab * unread
    return weights + seen_cache_bytes(spec, precision, new, filled, rows)


def bytes_per_decode_step(
    spec: LlamaSpec,
    precision: Precision,
    filled: int,
    rows: int,
    dense: frozenset[str] = frozenset(),
) -> int:
    """Bytes that one decode step must read: every weight once, and the KV that each row sees."""
    return bytes_per_step(spec, precision, 1, filled, rows, dense)


def bytes_where_masked(
    spec: LlamaSpec,
    precision: Precision,
    positions: int,
    rows: int,
    dense: frozenset[str] = frozenset(),
) -> int:
    """Bytes that a decode step reads whose attention goes over so many positions in every layer.

    So do all engines: the graphs `standard` and `primitive`, which TensorRT takes, go over all
    slots of the cache, ONNX Runtime's GroupQueryAttention and PyTorch over those that are filled.
    What lies before a window is masked, and not spared (log of 2026-12-01).
    """
    plain = replace(spec, window=None, windowed=())
    return bytes_per_decode_step(plain, precision, positions, rows, dense)


def linear_parameters(spec: LlamaSpec) -> int:
    """Number of weights in the linear layers of the blocks: those that are quantized."""
    block = spec.dim * (spec.q_dim + 2 * spec.kv_dim) + spec.q_dim * spec.dim
    return spec.layers * (block + 3 * spec.dim * spec.ffn_dim)


def step_work(spec: LlamaSpec, precision: Precision, new: int, filled: int, rows: int) -> Work:
    """Bytes and FLOPs of a step: T new tokens in each row, after which P positions are filled.

    A linear layer takes 2·parameters FLOPs a token, attention 4·L·H·D for every position that a
    token sees: 2 for q·k, 2 for the weighted sum of v (Hoffmann et al., 2022, arXiv:2203.15556,
    appendix F). Under the causal mask T tokens see T·P − T·(T−1)/2 positions, and in layers with a
    window none of them more than that. Logits are computed for one position of each row: 2·V·dim.
    Norms, those of heads too, RoPE, biases and multipliers are left out, under 1 %.
    """
    through = len(spec.windowed)
    seen = (spec.layers - through) * _seen(new, filled)
    if spec.window is not None:
        # The last of the tokens see a whole window each, the others all before them.
        whole = min(max(filled - spec.window, 0), new)
        seen += through * (whole * spec.window + _seen(new - whole, filled - whole))
    attention = 4 * spec.q_dim * seen
    logits = 2 * spec.vocab * spec.dim
    return Work(
        read_bytes=bytes_per_step(spec, precision, new, filled, rows),
        linear_flops=2 * rows * new * linear_parameters(spec),
        other_flops=rows * (attention + logits),
    )


def _seen(new: int, filled: int) -> int:
    """Positions that T tokens see together, of P filled ones, where the future alone is hidden."""
    return new * filled - new * (new - 1) // 2


def prefill_work(
    spec: LlamaSpec, precision: Precision, prompt: int, per_step: int, rows: int
) -> Work:
    """Bytes and FLOPs of a prefill, cut into steps of at most `per_step` tokens."""
    steps = list(_steps(prompt, per_step))
    work = [step_work(spec, precision, new, filled, rows) for new, filled in steps]
    return sum(work[1:], work[0])


def _steps(prompt: int, per_step: int) -> Iterator[tuple[int, int]]:
    """New tokens and filled positions of each step."""
    for start in range(0, prompt, per_step):
        new = min(per_step, prompt - start)
        yield new, start + new


def held_to(
    row: SpeedRow,
    ceiling: Ceiling,
    spec: LlamaSpec,
    precision: Precision,
    per_step: int,
    device: Device | None,
    dense: frozenset[str] = frozenset(),
) -> SpeedRow:
    """A row with the share of the roofline that it reached: the probe's, and the specification's.

    The share is the least time that a repetition can take by the time that it took: of each step
    the longer of its reads and its FLOPs, at the ceiling's rates. `per_step`: the most tokens of a
    step. A row that is faster than the machine at its highest rates is invalid; one far below its
    usual ones gets a note.
    """
    steps = list(_row_steps(row, per_step))
    usual = ceiling.read_bytes_per_s, ceiling.flops_per_s
    highest = ceiling.read_highest, ceiling.flops_highest
    least_s, fastest_s = (
        _least_s(steps, row.batch, spec, precision, dense, *rates) for rates in (usual, highest)
    )
    if (row.isl and ceiling.flops_per_s is None) or not row.samples:
        return row
    decode_steps = row.osl - bool(row.isl)
    took_s = row.batch * (row.osl or row.isl) / row.speed
    share = least_s / took_s
    reasons = [row.invalid_reason] if row.invalid_reason else []
    if fastest_s / took_s > 1 + TOLERANCE:
        reasons.append(
            f"{100 * fastest_s / took_s:.0f} % of the highest roofline of this machine, which "
            "cannot be: less was read or computed than was asked for, or other work slowed the "
            "probe; measure again on a machine at rest"
        )
    return replace(
        row,
        predicted_ms=1e3 * least_s / (1 if row.isl else decode_steps),
        roofline_probe=share,
        roofline_spec=_share_of_specification(row, steps, took_s, spec, precision, device, dense),
        suspect=f"under {100 * SUSPECT_SHARE:.0f} % of the roofline: suspect path"
        if share < SUSPECT_SHARE
        else None,
        valid=not reasons,
        invalid_reason="; ".join(reasons) or None,
    )


def _row_steps(row: SpeedRow, per_step: int) -> Iterator[tuple[int, int]]:
    """New tokens and filled positions of each timed step."""
    for new, filled in _steps(row.isl, per_step):
        yield new, row.depth + filled
    for at in range(row.osl - bool(row.isl and row.osl)):
        yield 1, row.depth + row.isl + at + 1


def _least_s(
    steps: list[tuple[int, int]],
    rows: int,
    spec: LlamaSpec,
    precision: Precision,
    dense: frozenset[str],
    bytes_per_s: float,
    flops_per_s: float | None,
) -> float:
    """Seconds that steps take at least: each the longer of its reads and its FLOPs."""
    total = 0.0
    for new, filled in steps:
        read_s = bytes_per_step(spec, precision, new, filled, rows, dense) / bytes_per_s
        flops = step_work(spec, precision, new, filled, rows).flops
        total += max(read_s, flops / flops_per_s if flops_per_s else 0.0)
    return total


def _share_of_specification(
    row: SpeedRow,
    steps: list[tuple[int, int]],
    took_s: float,
    spec: LlamaSpec,
    precision: Precision,
    device: Device | None,
    dense: frozenset[str],
) -> float | None:
    """By the catalogue's figures; the rate of fp32 is in none, nor that of a mixture's 8 bits."""
    if device is None:
        return None
    known = precision.compute != "fp32" and not precision.rounds_inputs
    if row.isl and not known:
        return None
    flops_per_s = device.fp16_tflops.value * 1e12 if known else None
    bytes_per_s = device.bandwidth_gb_per_s.value * 1e9
    return _least_s(steps, row.batch, spec, precision, dense, bytes_per_s, flops_per_s) / took_s
