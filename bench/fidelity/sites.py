"""The ops of a graph, each at every step: what it was given, and what it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.oracle import Wide
from llx.bench.fidelity.taps import (
    EMBEDDED,
    EMBEDDED_SCALED,
    NORMED,
    PICKED,
    UNSCALED,
    Step,
    Tapped,
    Values,
    hidden_after,
)
from llx.graphs.contract import LOGITS, PAST, PRESENT
from llx.llama.spec import LlamaSpec


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


def sites_of(
    tapped: Tapped, layers: range, steps: Sequence[Step], runs: Sequence[Values]
) -> Iterator[list[Site]]:
    """Every op of some layers in order, each at every step: those of one op together."""
    makers: list[Callable[[Step, Values], Site]] = []
    spec = tapped.spec
    if layers.start == 0:
        makers += _of_embedding(spec)
    for layer in layers:
        makers += _of_layer(spec, layer, tapped)
    if layers.stop == spec.layers:
        makers += _of_logits(spec)
    for make in makers:
        yield [make(step, values) for step, values in zip(steps, runs, strict=True)]


def _of_embedding(spec: LlamaSpec) -> list[Callable[[Step, Values], Site]]:
    def embedding(step: Step, values: Values) -> Site:
        return Site("embedding", "embedding", None, step, values[EMBEDDED], (step.tokens,), "embed")

    def scale(step: Step, values: Values) -> Site:
        given, by = (values[EMBEDDED],), {"factor": spec.embed_scale}
        found = values[EMBEDDED_SCALED]
        return Site("scale", "multiplier of embeddings", None, step, found, given, details=by)

    return [embedding] if spec.embed_scale == 1 else [embedding, scale]


def _of_layer(spec: LlamaSpec, layer: int, tapped: Tapped) -> list[Callable[[Step, Values], Site]]:
    delta, shown = tapped.delta, tapped.shown(layer)
    at = f"layers.{layer}"
    q, k, v = (f"{at}/split.{i}" for i in range(3))
    gate, up = (f"{at}/split_2.{i}" for i in range(2))
    entered, middle, left = hidden_after(layer - 1, spec), f"{at}/add", f"{at}/add_2"
    from_o, from_down = f"{at}.o/linear", f"{at}.down/linear"
    if shown.scaled:
        from_o, from_down = f"{at}/scale", f"{at}/scale_2"
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
        turned = shown.turns and part == "key"
        if not shown.whole and not turned:
            return op("kv_update", words, present, new, past, delta=delta, part=part)

        def make(step: Step, values: Values) -> Site:
            given = (given_to(step, values, "qkv".index(part[0])), values[past])
            details = {"delta": False, "part": part, "turned": turned}
            name = f"{at} {words}"
            return Site("kv_update", name, layer, step, values[present], given, "", details)

        return make

    def given_to(step: Step, values: Values, index: int) -> NDArray[Any]:
        """What q (0), k (1) or v (2) is to attention, [T, heads·D]: what it does itself is done."""
        if shown.whole:
            ends = np.cumsum(qkv_sizes)[:2]
            part = np.split(values[f"{at}.qkv/linear"], ends, axis=-1)[index]
        else:
            part = values[shown.before_attention(layer, index)]
        if index == 2 or not shown.turns:
            return part
        return oracle.turned(part.astype(np.float64), *tapped.tables(step.positions))

    def attention(step: Step, values: Values) -> Site:
        cache = [_cache_after(values, layer, part, step, delta) for part in ("key", "value")]
        given = (given_to(step, values, 0), *cache)
        found = values[f"{at}/attention"]
        # And one slot beyond, which a mask may show that ends too late.
        ahead = None if delta else (values[keys], values[values_])
        return Site(
            "attention",
            f"{at} attention",
            layer,
            step,
            found,
            given,
            details={"ahead": ahead, "turned": shown.turns},
        )

    def split(words: str, index: int, given: str, found: str, *sizes: int) -> Any:
        return op("split", words, found, given, sizes=sizes, index=index)

    qkv_sizes = (spec.q_dim, spec.kv_dim, spec.kv_dim)
    splits = [
        split(f"split of {name}", i, f"{at}.qkv/linear", part, *qkv_sizes)
        for i, (name, part) in enumerate(zip("qkv", (q, k, v), strict=True))
    ]
    norms = [norm(f"{name}_norm", "RMSNorm", part) for name, part in (("q", q), ("k", k))]
    ropes = [
        op(
            "rope",
            f"RoPE of {name}",
            shown.before_attention(layer, i),
            shown.before_rope(layer, i),
            part=name,
        )
        for i, name in enumerate("qk")
    ]
    by = spec.residual_scale
    scales = [
        op("scale", "multiplier of attention", from_o, f"{at}.o/linear", factor=by),
        op("scale", "multiplier of the MLP", from_down, f"{at}.down/linear", factor=by),
    ]
    return [
        norm("attn_norm", "RMSNorm", entered),
        linear("qkv", "linear", f"{at}.attn_norm/rms_norm"),
        *([] if shown.whole else splits),
        *(norms if shown.normed else []),
        *(ropes if shown.roped else []),
        update("key", shown.before_attention(layer, 1)),
        update("value", v),
        attention,
        linear("o", "linear", f"{at}/attention"),
        *(scales[:1] if shown.scaled else []),
        op("add", "sum after attention", middle, entered, from_o),
        norm("mlp_norm", "RMSNorm", middle),
        linear("gate_up", "linear", f"{at}.mlp_norm/rms_norm"),
        *(
            split(f"split of {name}", i, f"{at}.gate_up/linear", part, spec.ffn_dim, spec.ffn_dim)
            for i, (name, part) in enumerate((("gate", gate), ("up", up)))
        ),
        op("silu", "SiLU", f"{at}/silu", gate, up),  # up for the hypothesis that they are exchanged
        op("multiply", "gate times up", f"{at}/mul", f"{at}/silu", up),
        linear("down", "linear", f"{at}/mul"),
        *(scales[1:] if shown.scaled else []),
        op("add", "sum after the MLP", left, middle, from_down),
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
    last = hidden_after(spec.layers - 1, spec)
    unscaled = LOGITS if spec.logit_scale == 1 else UNSCALED

    def pick(step: Step, values: Values) -> Site:
        return Site("pick", "picked positions", None, step, values[PICKED], (values[last],))

    def norm(step: Step, values: Values) -> Site:
        given, found = (values[PICKED],), values[NORMED]
        return Site("rms_norm", "RMSNorm (norm)", None, step, found, given, "norm")

    def unembed(step: Step, values: Values) -> Site:
        given = (values[NORMED],)
        return Site("unembed", f"logits ({table})", None, step, values[unscaled], given, table)

    def scale(step: Step, values: Values) -> Site:
        given, by = (values[UNSCALED],), {"factor": spec.logit_scale}
        found = values[LOGITS]
        return Site("scale", "multiplier of logits", None, step, found, given, details=by)

    return [pick, norm, unembed, *([] if spec.logit_scale == 1 else [scale])]
