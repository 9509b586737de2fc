"""Why an op of a graph is off: each known cause is tried, and named only where it explains all.

A hypothesis is the op computed otherwise. It holds where what the graph gave lies within rounding
of it, at every value; what it looks like is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity import oracle
from llx.bench.fidelity.localise import Off, Site, Weights, bias_of, rounded, tables
from llx.bench.fidelity.oracle import Arithmetic, Expected, Wide
from llx.errors import LlxError
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec, RopeSpec

THETAS = (10000.0, 500000.0, 1000000.0, 100000.0, 1000.0)
EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 0.0)
FEW = 8  # channels that are named one by one
NEAR = 4  # layers before and after, whose weights may be in the place of one's own
AGAIN = "export again with --overwrite"


@dataclass(frozen=True)
class Cause:
    """Why an op is off, as what follows "because", and what mends it. None: no known cause fits."""

    words: str | None
    remedy: str
    ruled_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """An op that is off, and what a hypothesis needs: the model, its weights, its arithmetic."""

    off: Off
    spec: LlamaSpec
    weights: Weights
    a: Arithmetic

    @property
    def site(self) -> Site:
        """The op."""
        return self.off.site

    def holds(self, expected: Expected, rows: Any = slice(None)) -> bool:
        """Whether the graph gave this, within rounding."""
        if expected.wanted.shape != self.site.found.shape:
            return False
        part = Expected(expected.wanted[rows], expected.allowed[rows])
        shares = oracle.beyond(self.site.found[rows], part)
        return bool(shares.size) and bool((shares <= 1).all())


Hypothesis = tuple[str, Callable[[], bool]]


def cause_of(case: Case) -> Cause:
    """The cause of what is off, as far as one is known and fits; else what was ruled out."""
    tried = []
    for words, holds in _hypotheses(case):
        name, _, said = words.partition(": ")
        with np.errstate(all="ignore"):
            try:
                right = holds()
            except (LlxError, KeyError):  # what it would need is not here
                continue
        if right:
            return Cause(said or name, _remedy(name))
        tried.append(name)
    return Cause(None, AGAIN, tuple(dict.fromkeys(tried)))


OVERFLOW = "overflow"


def _remedy(name: str) -> str:
    return "export with --precision bf16 or fp32" if name == OVERFLOW else AGAIN


def _hypotheses(case: Case) -> Iterator[Hypothesis]:
    yield from _overflow(case)
    yield from OF_KIND.get(case.site.kind, _none)(case)
    yield from _of_any(case)


def _none(case: Case) -> Iterator[Hypothesis]:
    return iter(())


def _overflow(case: Case) -> Iterator[Hypothesis]:
    wanted, compute = case.off.expected.wanted, case.a.compute
    if compute != "fp16":
        return

    def infinite_weight() -> bool:
        weight = case.weights(f"{case.site.module}.weight")
        return bool(np.isinf(weight).any())

    yield f"{OVERFLOW}: its weight holds values beyond 65504, infinite in fp16", infinite_weight
    most = float(np.abs(wanted).max(initial=0.0))
    yield (
        f"{OVERFLOW}: {compute} cannot hold it: it reaches {most:.3g}, and 65504 is the most",
        lambda: oracle.overflows(compute, wanted),
    )


def _of_any(case: Case) -> Iterator[Hypothesis]:
    """A factor, exchanged channels, or a few channels of their own: of whichever op."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    square = float((wanted * wanted).sum())
    factor = float((found * wanted).sum()) / square if square else 0.0
    scaled = Expected(wanted * factor, 2 * allowed * max(1.0, abs(factor)))
    yield "nothing there: it gives zeros", lambda: not found.any()
    yield (
        f"one scale: all of it is {factor:.4g} times what it should be",
        lambda: factor != 0 and case.holds(scaled),
    )
    yield from _channels(case)
    yield "permuted channels: its channels are in another order", lambda: _permuted(case)


def _channels(case: Case) -> Iterator[Hypothesis]:
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    bad = np.flatnonzero((oracle.beyond(case.site.found, case.off.expected) > 1).any(0))
    if not 0 < len(bad) <= max(1, wanted.shape[-1] // 4):
        return
    squares = np.square(wanted[:, bad]).sum(0)
    factors = (found * wanted)[:, bad].sum(0) / np.where(squares == 0, 1, squares)
    which = _listed(bad)
    grown = Expected(wanted.copy(), 2 * allowed)
    grown.wanted[:, bad] *= factors
    grown.allowed[:, bad] *= np.maximum(1, np.abs(factors))
    sizes = f"{np.abs(factors).min():.4g}" + (
        f" to {np.abs(factors).max():.4g}" if len(bad) > 1 else ""
    )
    yield (
        f"an outlier channel: {which} of its outputs {_are(bad)} {sizes} times what "
        f"{'it' if len(bad) == 1 else 'they'} should be, the others are right",
        lambda: len(found) > 1 and case.holds(grown),
    )


def _are(bad: NDArray[np.intp]) -> str:
    return "is" if len(bad) == 1 else "are"


def _listed(bad: NDArray[np.intp]) -> str:
    if len(bad) == 1:
        return f"channel {bad[0]}"
    return f"channels {', '.join(map(str, bad))}" if len(bad) <= FEW else f"{len(bad)} channels"


def _permuted(case: Case) -> bool:
    """Whether each column is a column of what was wanted: both in the order of their values."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    if len(found) < 2:
        return False
    here, there = np.lexsort(found[::-1]), np.lexsort(wanted[::-1])
    part = Expected(wanted[:, there], 2 * allowed[:, there])
    return bool((oracle.beyond(found[:, here], part) <= 1).all())


def _heads(case: Case, names: Mapping[str, slice]) -> Iterator[Hypothesis]:
    """Heads of a part that stand in one another's place."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    size = case.spec.head_dim
    for name, part in names.items():
        heads = range(part.start, part.stop, size)

        def exchanged(heads: range = heads) -> bool:
            taken = []
            for at in heads:
                here = found[:, at : at + size]
                fits = (
                    other
                    for other in heads
                    if (
                        oracle.beyond(
                            here,
                            Expected(
                                wanted[:, other : other + size],
                                2 * allowed[:, other : other + size],
                            ),
                        )
                        <= 1
                    ).all()
                )
                taken.append(next(fits, None))
            return None not in taken and taken != list(heads)

        yield f"permuted heads: the heads of {name} are in another order", exchanged


def _linear(case: Case) -> Iterator[Hypothesis]:
    site, spec, a = case.site, case.spec, case.a
    x, (wanted, allowed) = site.wide(), case.off.expected
    found = site.found.astype(np.float64)
    bias = bias_of(site, spec, case.weights)
    if bias is not None:
        size = 2 * allowed + 2 * a.unit * np.abs(bias)
        yield "no bias: its bias is missing", lambda: case.holds(Expected(wanted - bias, size))
        yield (
            "a bias twice: its bias is added twice",
            lambda: case.holds(Expected(wanted + bias, size)),
        )
        shift = (found - wanted).mean(0)
        moved = Expected(wanted + shift, 3 * size)
        alike = np.allclose(np.sort(bias + shift), np.sort(bias), rtol=1e-2, atol=1e-5)
        words = "its biases are permuted" if alike else "its bias is another one"
        yield f"another bias: {words}", lambda: len(found) > 1 and case.holds(moved)
    parts = _parts(site.module, spec)
    if site.module.endswith(".qkv"):
        yield from _heads(case, parts)
    if len(parts) == 2:
        halves = np.split(np.arange(wanted.shape[1]), 2)
        turned = np.concatenate(halves[::-1])
        yield (
            "exchanged halves: gate and up stand in one another's place",
            lambda: case.holds(Expected(wanted[:, turned], 2 * allowed[:, turned])),
        )
    for name, part in parts.items():
        yield from _scaled_part(case, name, part)
    yield from _input_channel(case, x)
    yield from _other_layers(case, x)


def _parts(module: str, spec: LlamaSpec) -> dict[str, slice]:
    """Which outputs are whose, where several projections are one."""
    names: Mapping[str, int] = {}
    if module.endswith(".qkv"):
        names = {"q": spec.q_dim, "k": spec.kv_dim, "v": spec.kv_dim}
    elif module.endswith(".gate_up"):
        names = {"gate": spec.ffn_dim, "up": spec.ffn_dim}
    parts, at = {}, 0
    for name, size in names.items():
        parts[name] = slice(at, at + size)
        at += size
    return parts


def _scaled_part(case: Case, name: str, part: slice) -> Iterator[Hypothesis]:
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    square = float(np.square(wanted[:, part]).sum())
    factor = float((found * wanted)[:, part].sum()) / square if square else 0.0
    grown = Expected(wanted.copy(), 2 * allowed)
    grown.wanted[:, part] *= factor
    grown.allowed[:, part] *= max(1.0, abs(factor))
    yield (
        f"one scale of a part: {name} is {factor:.4g} times what it should be",
        lambda: factor != 0 and case.holds(grown),
    )


def _input_channel(case: Case, x: Wide) -> Iterator[Hypothesis]:
    """One input channel that weighs otherwise: what is off is then of rank one, along it."""
    found, (wanted, allowed) = case.site.found.astype(np.float64), case.off.expected
    off = found - wanted
    squares = np.square(x).sum(0)
    explained = np.square(x.T @ off).sum(1) / np.where(squares == 0, np.inf, squares)
    j = int(np.nan_to_num(explained).argmax())
    along = np.outer(x[:, j], x[:, j] @ off) / (squares[j] or 1.0)
    moved = Expected(wanted + along, 3 * allowed + case.a.unit * np.abs(along))
    yield (
        f"an outlier channel: its weight for input channel {j} is another one",
        lambda: len(found) > 2 and case.holds(moved),
    )


def _other_layers(case: Case, x: Wide) -> Iterator[Hypothesis]:
    site = case.site
    if site.layer is None:
        return
    own = site.module.rpartition(".")[2]
    for layer in range(site.layer - NEAR, site.layer + NEAR + 1):
        if layer in (site.layer,) or not 0 <= layer < case.spec.layers:
            continue
        module = f"layers.{layer}.{own}"

        def holds(module: str = module) -> bool:
            bias = bias_of(replace(site, module=module), case.spec, case.weights)
            return case.holds(oracle.linear(case.a, x, case.weights(f"{module}.weight"), bias))

        yield f"another layer's weight: it uses the weight of {module}", holds


def _norm(case: Case) -> Iterator[Hypothesis]:
    site, spec, a = case.site, case.spec, case.a
    x, weight = site.wide(), case.weights(f"{site.module}.weight").astype(np.float64)

    def with_epsilon(eps: float) -> Callable[[], bool]:
        return lambda: case.holds(oracle.rms_norm(a, x, weight, eps))

    def with_weight_of(name: str) -> Callable[[], bool]:
        def holds() -> bool:
            other = case.weights(name).astype(np.float64)
            return case.holds(oracle.rms_norm(a, x, other, spec.norm_eps))

        return holds

    for eps in EPSILONS:
        if eps != spec.norm_eps:
            yield (
                f"another epsilon: its epsilon is {eps:g}, and the model's {spec.norm_eps:g}",
                with_epsilon(eps),
            )
    if a.compute == "fp16":
        yield (
            f"{OVERFLOW}: the squares of its inputs, up to {np.abs(x).max():.3g}, overflow: "
            "its statistics are in fp16, not in fp32",
            lambda: _squares_overflow(case, x, weight),
        )
    centred = x - x.mean(-1, keepdims=True)
    yield (
        "a mean subtracted: it subtracts the mean, as LayerNorm does",
        lambda: case.holds(oracle.rms_norm(a, centred, weight, spec.norm_eps)),
    )
    yield (
        "no weight: its weight is missing",
        lambda: case.holds(oracle.rms_norm(a, x, np.ones_like(weight), spec.norm_eps)),
    )
    yield (
        "one added to its weight: one is added to its weight",
        lambda: case.holds(oracle.rms_norm(a, x, 1 + weight, spec.norm_eps)),
    )
    others = ["norm.weight"]
    others += [
        f"layers.{i}.{n}.weight" for i in range(spec.layers) for n in ("attn_norm", "mlp_norm")
    ]
    for name in others:
        if name != f"{site.module}.weight":
            yield f"another norm's weight: it uses {name}", with_weight_of(name)


def _squares_overflow(case: Case, x: Wide, weight: Wide) -> bool:
    """Whether exactly the rows are off in which a square, or the sum of squares, leaves fp16."""
    most = 65504.0
    over = (np.square(x).max(-1) > most) | (np.square(x).sum(-1) > most)
    right = oracle.rms_norm(case.a, x, weight, case.spec.norm_eps)
    bad = (oracle.beyond(case.site.found, right) > 1).any(-1)
    found = case.site.found.astype(np.float64)
    gone = ~np.isfinite(found[bad]).all(-1) | ~found[bad].any(-1)
    return bool(bad.any()) and bool(over[bad].all()) and bool(gone.all())


def _rope(case: Case) -> Iterator[Hypothesis]:
    site, spec, a = case.site, case.spec, case.a
    x, positions = site.wide(), site.step.positions
    cos, sin = tables(spec, a, positions)
    turn, back = _pairs(spec.head_dim), np.argsort(_pairs(spec.head_dim))

    def by_heads(flat: Wide, order: NDArray[np.intp]) -> Wide:
        return oracle.flat_of(oracle.heads_of(flat, spec.head_dim)[..., order])

    def interleaved() -> Expected:
        inner = oracle.rope(a, by_heads(x, back), cos, sin)
        return Expected(by_heads(inner.wanted, turn), by_heads(inner.allowed, turn))

    def with_rope(rope: RopeSpec, at: NDArray[np.int64] = positions) -> Callable[[], bool]:
        def holds() -> bool:
            c, s = (rounded(t, a) for t in rope_tables(rope, spec.head_dim, np.maximum(at, 0)))
            return case.holds(oracle.rope(a, x, c, s))

        return holds

    yield (
        "interleaved pairs: RoPE turns interleaved pairs, where the model turns halves",
        lambda: case.holds(interleaved()),
    )
    yield "no rotation: nothing is rotated", lambda: case.holds(oracle.exact(x))
    yield (
        "the other way: RoPE turns the other way, by a negative sine",
        lambda: case.holds(oracle.rope(a, x, cos, -sin)),
    )
    for theta in THETAS:
        if theta != spec.rope.theta:
            yield (
                f"another theta: RoPE's theta is {theta:g}, and the model's {spec.rope.theta:g}",
                with_rope(replace(spec.rope, theta=theta)),
            )
    if spec.rope.type != "default":
        yield (
            f"no scaling: RoPE's {spec.rope.type} scaling is missing",
            with_rope(RopeSpec(theta=spec.rope.theta)),
        )
    for shift, words in ((-1, "one position early"), (1, "one position late")):
        yield (
            f"positions off by one: RoPE turns {words}",
            with_rope(spec.rope, positions + shift),
        )
    yield (
        "positions from zero: RoPE counts each step's positions from 0",
        with_rope(spec.rope, positions - positions[0]),
    )
    heads = {site.details["part"]: slice(0, x.shape[1])}
    yield from _heads(case, heads)


def _pairs(head_dim: int) -> NDArray[np.intp]:
    """Where each channel of halves lies among interleaved pairs: gather by it to interleave."""
    order: NDArray[np.intp] = np.arange(head_dim).reshape(2, -1).T.ravel()
    return order


def _attention(case: Case) -> Iterator[Hypothesis]:
    site, spec, a = case.site, case.spec, case.a
    q, k, v = (site.wide(i) for i in range(3))
    positions, filled = site.step.positions, k.shape[1]
    groups = spec.heads // spec.kv_heads
    right = oracle.causal(positions, filled)

    def without_first(count: int) -> Callable[[], bool]:
        return lambda: seeing(right & (np.arange(filled) >= count))

    def scaled_by(scale: float) -> Callable[[], bool]:
        return lambda: case.holds(
            oracle.attention(a, q, k, v, right, lambda head: head // groups, scale)
        )

    def seeing(seen: NDArray[np.bool_], more: Any = None) -> bool:
        keys, values = more or (k, v)
        found = oracle.attention(a, q, keys, values, seen, lambda head: head // groups)
        return case.holds(found, seen.any(-1))

    ahead = site.details.get("ahead")
    past = np.arange(filled) < positions[0]
    yield (
        "a mask one short: the mask ends one position early",
        lambda: bool(seeing(oracle.causal(positions, filled, -1))),
    )
    yield (
        "a mask one further: the mask ends one position late, and shows the next token",
        lambda: (
            seeing(oracle.causal(positions, ahead[0].shape[1], 1), ahead)
            if ahead
            else seeing(oracle.causal(positions, filled, 1))
        ),
    )
    yield (
        "no mask: nothing is masked, and later tokens are seen",
        lambda: seeing(np.ones_like(right)),
    )
    yield (
        "the past masked: what stood in the cache before the step is not seen",
        lambda: seeing(right & ~past),
    )
    yield (
        "the step masked: the step's own tokens are not seen",
        lambda: seeing(right & past),
    )
    for first in range(1, min(FEW, filled)):
        yield (
            f"the first masked: the first {first} positions are not seen",
            without_first(first),
        )
    if 1 < spec.kv_heads < spec.heads:
        yield (
            "other KV heads: query head h reads KV head h mod Hkv, and not h // (H/Hkv)",
            lambda: case.holds(
                oracle.attention(a, q, k, v, right, lambda head: head % spec.kv_heads)
            ),
        )
    for scale, words in ((1.0, "not scaled"), (1 / spec.head_dim, "scaled by 1/D, not 1/√D")):
        yield (
            f"another scale of scores: scores are {words}",
            scaled_by(scale),
        )
    yield from _heads(case, {"the queries": slice(0, q.shape[1])})


def _kv_update(case: Case) -> Iterator[Hypothesis]:
    site, spec = case.site, case.spec
    new, past = site.inputs
    found, start, count = site.found, int(site.step.positions[0]), len(site.step.positions)
    heads = oracle.heads_of(new, spec.head_dim)
    part = site.details["part"]

    def written(at: int) -> bool:
        if site.details["delta"] or not 0 <= at <= found.shape[1] - count:
            return False
        return bool((found[:, at : at + count] == heads).all())

    def exchanged() -> bool:
        at = 0 if site.details["delta"] else start
        here = found[:, at : at + count]
        fits = [
            next((i for i, one in enumerate(heads) if (one == row).all()), None) for row in here
        ]
        return None not in fits and fits != list(range(len(fits)))

    yield f"permuted heads: the heads of the cache's {part}s are in another order", exchanged
    for at in dict.fromkeys((start + 1, start - 1, 0)):
        if at != start:
            yield (
                f"another slot: new {part}s are written from slot {at} on, not from {start}",
                partial(written, at),
            )
    yield (
        f"not written: new {part}s are not written into the cache",
        lambda: not site.details["delta"] and bool((found[:, : past.shape[1]] == past).all()),
    )


def _add(case: Case) -> Iterator[Hypothesis]:
    one, other = case.site.wide(0), case.site.wide(1)
    slack = case.a.given * (np.abs(one) + np.abs(other))
    yield (
        "no residual: the residual is left out of the sum",
        lambda: case.holds(case.a.bound(slack, other)),
    )
    yield (
        "no branch: the sum holds the residual alone",
        lambda: case.holds(case.a.bound(slack, one)),
    )
    yield (
        "a branch twice: the sum holds the branch twice, and no residual",
        lambda: case.holds(case.a.bound(slack, 2 * other)),
    )
    yield "a difference: it subtracts", lambda: case.holds(case.a.bound(slack, one - other))


def _silu(case: Case) -> Iterator[Hypothesis]:
    gate, up = case.site.wide(0), case.site.wide(1)
    yield (
        "exchanged halves: SiLU is of up, where the model has it of gate",
        lambda: case.holds(oracle.silu(case.a, up)),
    )
    yield "no activation: it hands its input on", lambda: case.holds(oracle.exact(gate))
    cubic = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
    gelu = case.a.bound(
        1e-3 * np.abs(gate) + 4 * case.a.given * np.abs(gate), gate * (1 + cubic) / 2
    )
    yield "another activation: it is GELU", lambda: case.holds(gelu)


def _pick(case: Case) -> Iterator[Hypothesis]:
    given, found = case.site.inputs[0], case.site.found

    def moved(rows: NDArray[np.intp]) -> bool:
        return len(given) > 1 and bool((given[rows] == found).all())

    for shift in (1, -1):
        rows = np.clip(np.arange(len(given)) + shift, 0, len(given) - 1)
        words = "one late" if shift > 0 else "one early"
        yield (
            f"positions off by one: logits are of the position {words}",
            partial(moved, rows),
        )


def _table(case: Case) -> Iterator[Hypothesis]:
    site, spec = case.site, case.spec
    if spec.tied:
        return
    other = "embed" if site.kind == "unembed" else "unembed"

    def holds() -> bool:
        table = case.weights(f"{other}.weight")
        if site.kind == "embedding":
            return case.holds(oracle.exact(table[site.inputs[0]]))
        return case.holds(oracle.linear(case.a, site.wide(), table.T))

    yield f"the other table: it uses {other}.weight, as if the tables were tied", holds


OF_KIND: dict[str, Callable[[Case], Iterator[Hypothesis]]] = {
    "linear": _linear,
    "rms_norm": _norm,
    "rope": _rope,
    "attention": _attention,
    "kv_update": _kv_update,
    "add": _add,
    "silu": _silu,
    "pick": _pick,
    "embedding": _table,
    "unembed": _table,
}
