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


Maker = Callable[[Step, Values], Site]
"""Makes an op's site of a step and its values."""


def sites_of(
    tapped: Tapped, layers: range, steps: Sequence[Step], runs: Sequence[Values]
) -> Iterator[list[Site]]:
    """Every op of some layers in order, each at every step: those of one op together."""
    makers: list[Maker] = []
    spec = tapped.spec
    if layers.start == 0:
        makers += _of_embedding(spec)
    for layer in layers:
        makers += _Layer(tapped, layer).makers()
    if layers.stop == spec.layers:
        makers += _of_logits(spec)
    for make in makers:
        yield [make(step, values) for step, values in zip(steps, runs, strict=True)]


def _op(
    kind: str,
    name: str,
    found: str,
    *inputs: str,
    layer: int | None = None,
    module: str = "",
    **details: Any,
) -> Maker:
    """What makes the sites of an op whose inputs and result are values of the graph, by name."""

    def make(step: Step, values: Values) -> Site:
        given = tuple(values[name] for name in inputs)
        return Site(kind, name, layer, step, values[found], given, module, details)

    return make


def _of_embedding(spec: LlamaSpec) -> list[Maker]:
    def embedding(step: Step, values: Values) -> Site:
        return Site("embedding", "embedding", None, step, values[EMBEDDED], (step.tokens,), "embed")

    by = spec.embed_scale
    scale = _op("scale", "multiplier of embeddings", EMBEDDED_SCALED, EMBEDDED, factor=by)
    return [embedding] if by == 1 else [embedding, scale]


class _Layer:
    """The ops of one layer, by what a graph shows of it."""

    def __init__(self, tapped: Tapped, layer: int) -> None:
        self.tapped, self.spec, self.layer = tapped, tapped.spec, layer
        self.shown = tapped.shown(layer)
        self.at = f"layers.{layer}"
        self.qkv_sizes = (self.spec.q_dim, self.spec.kv_dim, self.spec.kv_dim)

    def makers(self) -> list[Maker]:
        """What makes the sites of each op, in the order of the graph."""
        at, entered = self.at, hidden_after(self.layer - 1, self.spec)
        gate, up = (f"{at}/split_2.{i}" for i in range(2))
        return [
            self._norm("attn_norm", entered),
            self._linear("qkv", f"{at}.attn_norm/rms_norm"),
            *self._queries_keys_values(),
            self._update("key"),
            self._update("value"),
            self._attention,
            self._linear("o", f"{at}/attention"),
            *self._joined("attention", entered, "o", f"{at}/scale", f"{at}/add"),
            self._norm("mlp_norm", f"{at}/add"),
            self._linear("gate_up", f"{at}.mlp_norm/rms_norm"),
            *self._split(("gate", "up"), f"{at}.gate_up/linear", f"{at}/split_2"),
            # up for the hypothesis that they are exchanged
            self._op("silu", "SiLU", f"{at}/silu", gate, up),
            self._op("multiply", "gate times up", f"{at}/mul", f"{at}/silu", up),
            self._linear("down", f"{at}/mul"),
            *self._joined("the MLP", f"{at}/add", "down", f"{at}/scale_2", f"{at}/add_2"),
        ]

    def _queries_keys_values(self) -> Iterator[Maker]:
        """From the projection of all three to what attention and the cache are given."""
        shown = self.shown
        if not shown.whole:
            yield from self._split("qkv", f"{self.at}.qkv/linear", f"{self.at}/split")
        for i, name in enumerate("qk" if shown.normed else ""):
            yield self._norm(f"{name}_norm", f"{self.at}/split.{i}")
        for i, name in enumerate("qk" if shown.roped else ""):
            found, given = shown.before_attention(self.layer, i), shown.before_rope(self.layer, i)
            yield self._op("rope", f"RoPE of {name}", found, given, part=name)

    def _joined(
        self, branch: str, hidden: str, module: str, scaled: str, found: str
    ) -> Iterator[Maker]:
        """A branch, multiplied where the model says so, and the hidden state that it joins."""
        given = f"{self.at}.{module}/linear"
        if self.shown.scaled:
            by = self.spec.residual_scale
            yield self._op("scale", f"multiplier of {branch}", scaled, given, factor=by)
            given = scaled
        yield self._op("add", f"sum after {branch}", found, hidden, given)

    def _op(self, kind: str, words: str, found: str, *inputs: str, **details: Any) -> Maker:
        return _op(kind, f"{self.at} {words}", found, *inputs, layer=self.layer, **details)

    def _of_module(self, kind: str, words: str, name: str, given: str) -> Maker:
        module = f"{self.at}.{name}"
        found = f"{module}/{kind}"
        return _op(kind, f"{words} ({module})", found, given, layer=self.layer, module=module)

    def _linear(self, name: str, given: str) -> Maker:
        return self._of_module("linear", "linear", name, given)

    def _norm(self, name: str, given: str) -> Maker:
        return self._of_module("rms_norm", "RMSNorm", name, given)

    def _split(self, names: Sequence[str], given: str, found: str) -> Iterator[Maker]:
        sizes = self.qkv_sizes if len(names) == 3 else (self.spec.ffn_dim, self.spec.ffn_dim)
        for i, name in enumerate(names):
            words = f"split of {name}"
            yield self._op("split", words, f"{found}.{i}", given, sizes=sizes, index=i)

    def _update(self, part: str) -> Maker:
        """The cache of keys or values."""
        index, delta = ("key", "value").index(part) + 1, self.tapped.delta
        past, present = (f"{cache}.{self.layer}.{part}" for cache in (PAST, PRESENT))
        turned = self.shown.turns and part == "key"
        if not self.shown.whole and not turned:
            new = self.shown.before_attention(self.layer, index)
            words = f"cache of {part}s"
            return self._op("kv_update", words, present, new, past, delta=delta, part=part)

        def make(step: Step, values: Values) -> Site:
            given = (self._given_to_attention(step, values, index), values[past])
            details = {"delta": False, "part": part, "turned": turned}
            name = f"{self.at} cache of {part}s"
            found = values[present]
            return Site("kv_update", name, self.layer, step, found, given, "", details)

        return make

    def _attention(self, step: Step, values: Values) -> Site:
        layer, delta = self.layer, self.tapped.delta
        parts = ("key", "value")
        cache = [_cache_after(values, layer, part, step, delta) for part in parts]
        given = (self._given_to_attention(step, values, 0), *cache)
        # And one slot beyond, which a mask may show that ends too late.
        ahead = None if delta else tuple(values[f"{PRESENT}.{layer}.{part}"] for part in parts)
        details = {"ahead": ahead, "turned": self.shown.turns}
        found, name = values[f"{self.at}/attention"], f"{self.at} attention"
        return Site("attention", name, layer, step, found, given, details=details)

    def _given_to_attention(self, step: Step, values: Values, index: int) -> NDArray[Any]:
        """What q (0), k (1) or v (2) is to attention, [T, heads·D]: what it does itself is done."""
        if self.shown.whole:
            ends = np.cumsum(self.qkv_sizes)[:2]
            part = np.split(values[f"{self.at}.qkv/linear"], ends, axis=-1)[index]
        else:
            part = values[self.shown.before_attention(self.layer, index)]
        if index == 2 or not self.shown.turns:
            return part
        return oracle.turned(part.astype(np.float64), *self.tapped.tables(step.positions))


def _cache_after(values: Values, layer: int, part: str, step: Step, delta: bool) -> NDArray[Any]:
    """Keys or values [Hkv, P, D] as a step's attention should see them."""
    present = values[f"{PRESENT}.{layer}.{part}"]
    if not delta:
        filled: NDArray[Any] = present[:, : step.filled]
        return filled
    past: NDArray[Any] = values[f"{PAST}.{layer}.{part}"].copy()
    past[:, step.positions[0] : step.filled] = present
    return past


def _of_logits(spec: LlamaSpec) -> list[Maker]:
    table, by = "embed" if spec.tied else "unembed", spec.logit_scale
    unscaled = LOGITS if by == 1 else UNSCALED
    scale = _op("scale", "multiplier of logits", LOGITS, UNSCALED, factor=by)
    return [
        _op("pick", "picked positions", PICKED, hidden_after(spec.layers - 1, spec)),
        _op("rms_norm", "RMSNorm (norm)", NORMED, PICKED, module="norm"),
        _op("unembed", f"logits ({table})", unscaled, NORMED, module=table),
        *([] if by == 1 else [scale]),
    ]
