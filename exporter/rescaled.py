"""Whether weights in few bits are still the checkpoint's: the factor that each channel has on it.

Rounding moves values, and factors are folded from one layer's weights into another's, but a channel
as a whole keeps its size: the projection of what is stored on what the checkpoint says, folds taken
back, is one. What was folded is read out of what it was folded into: the norms before q, k, v and
before gate, up; v before o; up before down (`llx.exporter.quantization.fold`). Where that is zero
nothing tells the fold, and what it was folded from is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llx.llama.spec import LlamaSpec

Read = Callable[[str], Tensor]
"""A layer's weight in fp32 by its name within the layer, [in, out] of a projection."""

# An error as large as half of a weight's own size is none of rounding to 4 bits or 8.
CHANNEL = 0.5
# Rounding errors lie across a weight as much as along it: N values leave them N - 1 directions for
# one. GPTQ makes later values answer for earlier ones, which shrinks a weight of int4 by some
# hundredths, so no average is counted on: along it may be twice of all that is across it. What the
# scales themselves round is the last summand.
ACROSS = 2.0
SCALE_ROUNDING = 2.0**-10


# A channel as small beside the largest may have no scale that fp16 holds, and is rounded to zero.
NEGLIGIBLE = 2.0**-10


@dataclass(frozen=True)
class Rescaled:
    """A part of a module that is not as large as the checkpoint's: all of it, or some channels.

    `allowed`: by how much the factor may differ from one.
    """

    module: str
    part: str
    factor: float
    allowed: float
    channels: tuple[int, ...]  # none: all


def rescaled(
    spec: LlamaSpec, layer: int, stored: Read, wanted: Read, folded: bool
) -> Iterator[Rescaled]:
    """Parts of one layer that have a factor on them, in the order of the model."""
    ones = {"o": torch.ones(spec.q_dim), "down": torch.ones(spec.ffn_dim)}
    unsure = {"o": 0.0, "down": 0.0}  # what rounding leaves open of the folds that they are told by
    for module, norm, splits in (
        ("qkv", "attn_norm.weight", {"q": spec.q_dim, "k": spec.kv_dim, "v": spec.kv_dim}),
        ("o", None, {"": spec.dim}),
        ("gate_up", "mlp_norm.weight", {"gate": spec.ffn_dim, "up": spec.ffn_dim}),
        ("down", None, {"": spec.dim}),
    ):
        rows = ones.get(module, torch.ones(spec.dim))
        if folded and norm:
            rows = _ratio(wanted(norm), stored(norm))
        known = rows.isfinite()
        found = stored(f"{module}.weight")[known]
        right = (wanted(f"{module}.weight") * rows[:, None])[known]
        at = 0
        for part, size in splits.items():
            span = slice(at, at + size)
            at += size
            here, there = found[:, span], right[:, span]
            along, sizes = (here * there).sum(0), there.square().sum(0)
            factors = _ratio(along, sizes)
            if folded and part == "v":
                heads = _ratio(torch.ones(size), factors).view(spec.kv_heads, 1, spec.head_dim)
                groups = spec.heads // spec.kv_heads
                ones["o"] = heads.expand(-1, groups, -1).reshape(-1)
                unsure["o"] = _noise(here, there * factors.nan_to_num())
            elif folded and part == "up":
                ones["down"] = _ratio(torch.ones(size), factors)
                unsure["down"] = _noise(here, there * factors.nan_to_num())
            else:
                name, more = f"layers.{layer}.{module}", unsure.get(module, 0.0)
                yield from _judged(name, part, factors, here, there, more)


def _judged(
    module: str, part: str, factors: Tensor, found: Tensor, right: Tensor, unsure: float
) -> Iterator[Rescaled]:
    total = float(right.square().sum())
    if not total:
        return
    whole = float((found * right).sum()) / total
    noise = _noise(found, whole * right) * abs(whole) + unsure
    allowed = min(CHANNEL, ACROSS * noise + SCALE_ROUNDING)
    factors = factors.nan_to_num(nan=1.0)  # of channels of zeros
    sizes = right.square().sum(0)
    seen = sizes > NEGLIGIBLE**2 * sizes.max()
    off = (((factors - 1).abs() > CHANNEL) & seen).nonzero().flatten().tolist()
    if abs(whole - 1) > allowed and (len(off) == 0 or len(off) > len(factors) // 4):
        yield Rescaled(module, part, whole, allowed, ())
    elif off:
        yield Rescaled(module, part, float(factors[off[0]]), CHANNEL, tuple(off))


def _noise(found: Tensor, right: Tensor) -> float:
    """The size of a difference, as a share of what is right."""
    size = float(right.square().sum())
    return float((found - right).square().sum() / size) ** 0.5 if size else 0.0


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """One over the other; NaN where that is zero."""
    return torch.where(other != 0, one / other, torch.nan)
