"""Op by op through a graph: the first whose error exceeds what its type explains.

Every op is recomputed by `oracle` from the inputs that the graph gave it, with the weights that the
model should have, so an op answers for itself alone, however far off all before it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.oracle import Arithmetic, Expected, Wide
from llx.bench.fidelity.taps import NORMED, PICKED, Step, Tapped, Values, hidden_after
from llx.graphs.contract import LOGITS, PAST, PRESENT
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec
from llx.progress import Progress, silent


class Weights(Protocol):
    """The weights that a model should have, in the values that its type gives them.

    Raises `KeyError` for one that is stored in few bits, unless it is dequantized.
    """

    def __call__(self, name: str) -> NDArray[Any]:
        """A weight by its name in the model, such as `layers.3.qkv.weight`."""


@dataclass(frozen=True)
class Site:
    """One op at one step: what it was given, and what it gave.

    `kind`: its name in `llx.llama.ops`, or of what it moves; `module`: whose weight it uses.
    """

    kind: str
    name: str  # for people: `layers.3 RoPE of k`
    layer: int | None
    step: Step
    found: NDArray[Any]
    inputs: tuple[NDArray[Any], ...]
    module: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def wide(self, index: int = 0) -> Wide:
        """An input in float64."""
        return self.inputs[index].astype(np.float64)


@dataclass(frozen=True)
class Off:
    """An op and by how much it errs.

    `error` and `allowed` are of the worst value, as shares of the largest that was wanted; `beyond`
    is the first by the second.
    """

    site: Site
    expected: Expected
    error: float
    allowed: float
    beyond: float
    at: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a walk through a graph saw.

    `first`: the first op beyond its bound; `nearest`: how much of its own the worst of the others
    used. `hidden` [T, dim], by layer and step, and `logits` [T, V], by step.
    """

    first: Off | None
    nearest: float
    ops: int
    hidden: dict[int, list[NDArray[Any]]]
    logits: list[NDArray[np.float32]]


def walk(
    tapped: Tapped,
    steps: Sequence[Step],
    weights: Weights,
    progress: Progress = silent,
    keep_hidden: bool = False,
) -> Found:
    """Compare every op of every layer at every step, up to the first that is beyond its bound.

    With `keep_hidden` all layers are run, for their hidden states [T, dim], even after that.
    """
    arithmetic = Arithmetic.of(tapped.artifact.manifest.precision.compute)
    spec = tapped.spec
    first: Off | None = None
    nearest, ops = 0.0, 0
    hidden: dict[int, list[NDArray[Any]]] = {}
    logits: list[NDArray[np.float32]] = []
    for layers, runs in tapped.runs(steps):
        if layers.start == 0:
            hidden[-1] = [values[hidden_after(-1)] for values in runs]
        for layer in layers:
            hidden[layer] = [values[hidden_after(layer)] for values in runs]
        if layers.stop == spec.layers:
            logits = [values[LOGITS] for values in runs]
        if first is None:
            for off in _compared(tapped, layers, steps, runs, weights, arithmetic):
                nearest, ops = max(nearest, off.beyond), ops + 1
                if not off.beyond <= 1:
                    first = off
                    break
                progress("op by op", layers.start, spec.layers, "layer")
        if first is not None and not keep_hidden:
            break
    progress("op by op", spec.layers, spec.layers, "layer")
    return Found(first, nearest, ops, hidden, logits)


def _compared(
    tapped: Tapped,
    layers: range,
    steps: Sequence[Step],
    runs: Sequence[Values],
    weights: Weights,
    a: Arithmetic,
) -> Iterator[Off]:
    for sites in sites_of(tapped, layers, steps, runs):
        try:
            with np.errstate(all="ignore"):  # what overflowed before is no news
                expected = expected_of(sites, tapped.spec, weights, a)
        except KeyError:  # in few bits: `linears` has it
            continue
        for site, wanted in zip(sites, expected, strict=True):
            yield judged(site, wanted)


def judged(site: Site, expected: Expected) -> Off:
    """An op beside what it should have given."""
    shares = oracle.beyond(site.found, expected)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape) if shares.size else ()
    if not shares.size:
        return Off(site, expected, 0.0, 0.0, 0.0, ())
    largest = float(np.abs(expected.wanted).max()) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.abs(float(site.found[at]) - expected.wanted[at]))
    return Off(
        site,
        expected,
        (error if np.isfinite(error) else np.inf) / largest,
        float(expected.allowed[at]) / largest,
        float(shares[at]),
        tuple(int(i) for i in at),
    )


def sites_of(
    tapped: Tapped, layers: range, steps: Sequence[Step], runs: Sequence[Values]
) -> Iterator[list[Site]]:
    """Every op of some layers in order, each at every step: those of one op together."""
    makers: list[Callable[[Step, Values], Site]] = []
    spec, delta = tapped.spec, tapped.delta
    if layers.start == 0:
        makers.append(_embedding)
    for layer in layers:
        makers += _of_layer(spec, layer, delta)
    if layers.stop == spec.layers:
        makers += _of_logits(spec)
    for make in makers:
        yield [make(step, values) for step, values in zip(steps, runs, strict=True)]


def _embedding(step: Step, values: Values) -> Site:
    found = values[hidden_after(-1)]
    return Site("embedding", "embedding", None, step, found, (step.tokens,), "embed")


def _of_layer(spec: LlamaSpec, layer: int, delta: bool) -> list[Callable[[Step, Values], Site]]:
    at = f"layers.{layer}"
    q, k, v = (f"{at}/split.{i}" for i in range(3))
    gate, up = (f"{at}/split_2.{i}" for i in range(2))
    entered, middle = hidden_after(layer - 1), f"{at}/add"
    keys, values_ = f"{PRESENT}.{layer}.key", f"{PRESENT}.{layer}.value"

    def op(
        kind: str, words: str, found: str, *inputs: str, module: str = "", **details: Any
    ) -> Callable[[Step, Values], Site]:
        name = f"{at} {words}" if not module else f"{words} ({module})"

        def make(step: Step, values: Values) -> Site:
            given = tuple(values[name] for name in inputs)
            return Site(kind, name, layer, step, values[found], given, module, details)

        return make

    def module(name: str) -> str:
        return f"{at}.{name}"

    def linear(name: str, words: str, given: str) -> Callable[[Step, Values], Site]:
        return op("linear", words, f"{at}.{name}/linear", given, module=module(name))

    def norm(name: str, words: str, given: str) -> Callable[[Step, Values], Site]:
        return op("rms_norm", words, f"{at}.{name}/rms_norm", given, module=module(name))

    def update(part: str, new: str) -> Callable[[Step, Values], Site]:
        past, present = f"{PAST}.{layer}.{part}", f"{PRESENT}.{layer}.{part}"
        words = f"cache of {part}s"
        return op("kv_update", words, present, new, past, delta=delta, part=part)

    def attention(step: Step, values: Values) -> Site:
        cache = [_cache_after(values, layer, part, step, delta) for part in ("key", "value")]
        given = (values[f"{at}/rope"], *cache)
        found = values[f"{at}/attention"]
        # And one slot beyond, which a mask may show that ends too late.
        ahead = None if delta else (values[keys], values[values_])
        return Site(
            "attention", f"{at} attention", layer, step, found, given, details={"ahead": ahead}
        )

    def split(words: str, index: int, given: str, found: str, *sizes: int) -> Any:
        return op("split", words, found, given, sizes=sizes, index=index)

    qkv_sizes = (spec.q_dim, spec.kv_dim, spec.kv_dim)
    return [
        norm("attn_norm", "RMSNorm", entered),
        linear("qkv", "linear", f"{at}.attn_norm/rms_norm"),
        *(
            split(f"split of {name}", i, f"{at}.qkv/linear", part, *qkv_sizes)
            for i, (name, part) in enumerate(zip("qkv", (q, k, v), strict=True))
        ),
        op("rope", "RoPE of q", f"{at}/rope", q, part="q"),
        op("rope", "RoPE of k", f"{at}/rope_2", k, part="k"),
        update("key", f"{at}/rope_2"),
        update("value", v),
        attention,
        linear("o", "linear", f"{at}/attention"),
        op("add", "sum after attention", middle, entered, f"{at}.o/linear"),
        norm("mlp_norm", "RMSNorm", middle),
        linear("gate_up", "linear", f"{at}.mlp_norm/rms_norm"),
        *(
            split(f"split of {name}", i, f"{at}.gate_up/linear", part, spec.ffn_dim, spec.ffn_dim)
            for i, (name, part) in enumerate((("gate", gate), ("up", up)))
        ),
        op("silu", "SiLU", f"{at}/silu", gate, up),  # up for the hypothesis that they are exchanged
        op("multiply", "gate times up", f"{at}/mul", f"{at}/silu", up),
        linear("down", "linear", f"{at}/mul"),
        op("add", "sum after the MLP", hidden_after(layer), middle, f"{at}.down/linear"),
    ]


def _cache_after(values: Values, layer: int, part: str, step: Step, delta: bool) -> NDArray[Any]:
    """Keys or values [Hkv, P, D] as a step's attention should see them."""
    present = values[f"{PRESENT}.{layer}.{part}"]
    if not delta:
        filled: NDArray[Any] = present[:, : step.filled]
        return filled
    past: NDArray[Any] = values[f"{PAST}.{layer}.{part}"].copy()
    past[:, step.positions[0] : step.filled] = present
    return past


def _of_logits(spec: LlamaSpec) -> list[Callable[[Step, Values], Site]]:
    table = "embed" if spec.tied else "unembed"
    last = hidden_after(spec.layers - 1)

    def pick(step: Step, values: Values) -> Site:
        return Site("pick", "picked positions", None, step, values[PICKED], (values[last],))

    def norm(step: Step, values: Values) -> Site:
        given, found = (values[PICKED],), values[NORMED]
        return Site("rms_norm", "RMSNorm (norm)", None, step, found, given, "norm")

    def unembed(step: Step, values: Values) -> Site:
        given = (values[NORMED],)
        return Site("unembed", f"logits ({table})", None, step, values[LOGITS], given, table)

    return [pick, norm, unembed]


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
        return oracle.rms_norm(a, site.wide(), weight, spec.norm_eps)
    if site.kind == "rope":
        return oracle.rope(a, site.wide(), *tables(spec, a, site.step.positions))
    if site.kind == "kv_update":
        return oracle.exact(_updated(site, spec))
    if site.kind == "attention":
        q, k, v = (site.wide(i) for i in range(3))
        groups = spec.heads // spec.kv_heads
        seen = oracle.causal(site.step.positions, k.shape[1])
        return oracle.attention(a, q, k, v, seen, lambda head: head // groups)
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


def bias_of(site: Site, spec: LlamaSpec, weights: Weights) -> Wide | None:
    """A linear layer's bias in float64, where the model has one."""
    attention = site.module.endswith((".qkv", ".o"))
    if not (spec.attention_bias if attention else spec.mlp_bias):
        return None
    return weights(f"{site.module}.bias").astype(np.float64)


def tables(spec: LlamaSpec, a: Arithmetic, positions: NDArray[np.int64]) -> tuple[Wide, Wide]:
    """Cosines and sines at positions, [T, D/2] each, as the type has them."""
    cos, sin = rope_tables(spec.rope, spec.head_dim, positions)
    return rounded(cos, a), rounded(sin, a)


def rounded(values: Wide, a: Arithmetic) -> Wide:
    """Values as fp32 or fp16 has them, in float64."""
    dtype = {"fp32": np.float32, "fp16": np.float16}[a.compute]
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
