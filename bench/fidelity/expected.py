"""What an op should have given: of the inputs that the graph gave it, with the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.oracle import Arithmetic, Expected, Wide
from llx.bench.fidelity.sites import Site
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec

# What turning costs a value, in units of its pair's length: two products and a sum, of sizes that
# add up to at most √2 of it.
TURNED = 4 * 2**0.5


class Weights(Protocol):
    """The weights that a model should have, in the values that its type gives them.

    Raises `KeyError` for one that is stored in few bits, unless it is dequantized.
    """

    def __call__(self, name: str) -> NDArray[Any]:
        """A weight by its name in the model, such as `layers.3.qkv.weight`."""


def expected_of(
    sites: Sequence[Site], spec: LlamaSpec, weights: Weights, a: Arithmetic
) -> list[Expected]:
    """What one op should have given at each step. `KeyError` where its weight is in few bits.

    A linear layer is multiplied with once for all steps: its weight is what takes time.
    """
    if sites[0].kind not in ("linear", "unembed"):
        return [_expected(site, spec, weights, a) for site in sites]
    weight = weights(f"{sites[0].module}.weight")
    bias = None
    if sites[0].kind == "unembed":
        weight = weight.T
    else:
        bias = bias_of(sites[0], spec, weights)
    whole = oracle.linear(a, np.concatenate([site.wide() for site in sites]), weight, bias)
    ends = np.cumsum([len(site.found) for site in sites])[:-1]
    parts = (np.split(values, ends) for values in whole)
    return [Expected(*pair) for pair in zip(*parts, strict=True)]


def _expected(site: Site, spec: LlamaSpec, weights: Weights, a: Arithmetic) -> Expected:
    if site.kind == "embedding":
        return oracle.exact(weights("embed.weight")[site.inputs[0]])
    if site.kind == "rms_norm":
        weight = weights(f"{site.module}.weight").astype(np.float64)
        x = site.wide()
        normed = oracle.rms_norm(a, x.reshape(-1, len(weight)), weight, spec.norm_eps)
        return Expected(*(values.reshape(x.shape) for values in normed))
    if site.kind == "rope":
        return oracle.rope(
            a, site.wide(), *tables(spec, a, site.step.positions), head_dim=spec.head_dim
        )
    if site.kind == "scale":
        return oracle.scale(a, site.wide(), site.details["factor"])
    if site.kind == "kv_update":
        updated = oracle.exact(_updated(site, spec))
        if not site.details.get("turned"):
            return updated
        return a.bound(TURNED * a.unit * _pairs(updated.wanted), updated.wanted)
    if site.kind == "attention":
        q, k, v = (site.wide(i) for i in range(3))
        groups = spec.heads // spec.kv_heads
        if site.details.get("turned"):  # within the op: its queries are not what a graph stores
            a = a._replace(given=a.given + TURNED * a.unit)
        seen = seen_by(site, spec, k.shape[1])
        return oracle.attention(a, q, k, v, seen, lambda head: head // groups, spec.score_scale)
    if site.kind == "split":
        sizes, index = site.details["sizes"], site.details["index"]
        start = sum(sizes[:index])
        return oracle.exact(site.inputs[0][:, start : start + sizes[index]])
    if site.kind == "silu":
        return oracle.silu(a, site.wide())
    if site.kind == "pick":
        return oracle.exact(site.inputs[0])
    two = {"add": oracle.add, "multiply": oracle.multiply}
    return two[site.kind](a, site.wide(0), site.wide(1))


def seen_by(site: Site, spec: LlamaSpec, filled: int, further: int = 0) -> NDArray[np.bool_]:
    """The slots that a layer's queries see, [T, P]; `further`: as many beyond their own."""
    assert site.layer is not None
    window = spec.kind_of(site.layer).window
    return oracle.causal(site.step.positions, filled, further, window)


def _pairs(heads: Wide) -> Wide:
    """The length of the pair that each value [heads, T, D] was turned in."""
    first, second = np.split(heads, 2, -1)
    length = np.hypot(first, second)
    return np.concatenate((length, length), -1)


def bias_of(site: Site, spec: LlamaSpec, weights: Weights) -> Wide | None:
    """A linear layer's bias in float64, where the model has one."""
    part = site.module.rpartition(".")[2]
    biased = {"qkv": spec.has_qkv_bias, "o": spec.attention_bias}
    if not biased.get(part, spec.mlp_bias):
        return None
    return weights(f"{site.module}.bias").astype(np.float64)


def tables(spec: LlamaSpec, a: Arithmetic, positions: NDArray[np.int64]) -> tuple[Wide, Wide]:
    """Cosines and sines at positions, [T, R/2] each, as the type has them."""
    cos, sin = rope_tables(spec.rope, spec.rotated, positions)
    return rounded(cos, a), rounded(sin, a)


def rounded(values: Wide, a: Arithmetic) -> Wide:
    """Values as they are stored, in fp32 or fp16, in float64."""
    dtype = {"fp32": np.float32, "fp16": np.float16}[a.stored]
    return values.astype(dtype).astype(np.float64)


def _updated(site: Site, spec: LlamaSpec) -> NDArray[Any]:
    """The cache after a step: [Hkv, T, D] of a delta, else its slots and one beyond."""
    new, past = site.inputs
    heads = oracle.heads_of(new, spec.head_dim)
    if site.details["delta"]:
        return heads
    found = site.found
    wanted = np.zeros_like(found)
    wanted[:, : past.shape[1]] = past
    wanted[:, site.step.positions[0] : site.step.filled] = heads
    return wanted
