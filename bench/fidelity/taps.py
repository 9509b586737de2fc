"""A graph run in ONNX Runtime with the values between its ops laid open, some layers at a time.

The values are found by the names that the trace gave them. They become outputs of the graph, so
ONNX Runtime fuses nothing across them: what only a fusion gets wrong is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.fidelity.linears import FOLDER_OPTION
from llx.bench.session import Tokens, Unfit, failed_step
from llx.bench.sessions.ort import NAME, NUMPY_DTYPES, loaded, require_computed
from llx.bench.sessions.ort_arithmetic import session_options
from llx.graphs.contract import (
    INPUT_IDS,
    LOGIT_INDEX,
    LOGITS,
    PAST,
    POSITION_IDS,
    PRESENT,
    cache_names,
)
from llx.graphs.dialects import dialect_named
from llx.graphs.dialects.ort import ORT, groups
from llx.llama.rope import rope_tables
from llx.llama.spec import LlamaSpec

Values = dict[str, NDArray[Any]]
MOST_BYTES = 256 << 20  # of values that are laid open at once
DECODED = 2
PREFILL, FURTHER, DECODE = "prefill", "prefill on a filled cache", "decode"


@dataclass(frozen=True)
class Step:
    """What a step was given: one row's tokens and positions [T]; and which phase it stands for."""

    phase: str
    tokens: Tokens
    positions: Tokens

    @property
    def filled(self) -> int:
        """Positions that the cache holds after it."""
        return int(self.positions[-1]) + 1


def steps_of(tokens: Tokens, most: int) -> list[Step]:
    """One window [N] as steps: half of it, a quarter on top, and two more tokens one by one.

    `most`: the tokens that a step takes.
    """
    count = len(tokens)
    half = min(-(-count // 2), most)
    quarter = min(half + count // 4, half + most)
    spans = [(PREFILL, 0, half), (FURTHER, half, quarter)]
    spans += [(DECODE, at, at + 1) for at in range(quarter, min(quarter + DECODED, count))]
    return [
        Step(phase, tokens[start:end], np.arange(start, end, dtype=np.int64))
        for phase, start, end in spans
        if end > start
    ]


@dataclass(frozen=True)
class Shown:
    """Which of a layer's values a graph shows, from the projection of q, k and v to attention.

    `whole`: q, k and v stay together, and attention splits them. `turns`: it turns q and k itself.
    """

    whole: bool
    normed: bool
    roped: bool
    turns: bool
    scaled: bool

    @classmethod
    def of(cls, spec: LlamaSpec, layer: int, grouped: bool) -> Shown:
        """`grouped`: attention is ONNX Runtime's GroupQueryAttention, as the `ort` dialect says."""
        rope = spec.kind_of(layer).rope
        turns = grouped and rope and spec.rotary_dim is None
        roped = rope and not turns
        whole = grouped and not spec.qk_norm and not roped
        return cls(whole, spec.qk_norm, roped, turns, spec.residual_scale != 1)

    def before_attention(self, layer: int, index: int) -> str:
        """The value that q (0), k (1) or v (2) is as attention or the cache is given it."""
        at = f"layers.{layer}"
        if index < 2 and self.roped:
            return f"{at}/rope" if index == 0 else f"{at}/rope_2"
        return self.before_rope(layer, index)

    def before_rope(self, layer: int, index: int) -> str:
        """The value that q, k or v is before it is turned."""
        at = f"layers.{layer}"
        normed = self.normed and index < 2
        return f"{at}.{'qk'[index]}_norm/rms_norm" if normed else f"{at}/split.{index}"


def names_of_layer(layer: int, shown: Shown) -> list[str]:
    """The values within one layer, in the order in which they are made."""
    at = f"layers.{layer}"
    split = [] if shown.whole else [f"{at}/split.{i}" for i in range(3)]
    normed = [shown.before_rope(layer, i) for i in range(2)] if shown.normed else []
    roped = [shown.before_attention(layer, i) for i in range(2)] if shown.roped else []
    scaled = [f"{at}/scale", f"{at}/scale_2"] if shown.scaled else []
    return [
        f"{at}.attn_norm/rms_norm",
        f"{at}.qkv/linear",
        *split,
        *normed,
        *roped,
        f"{at}/attention",
        f"{at}.o/linear",
        *scaled[:1],
        f"{at}/add",
        f"{at}.mlp_norm/rms_norm",
        f"{at}.gate_up/linear",
        *(f"{at}/split_2.{i}" for i in range(2)),
        f"{at}/silu",
        f"{at}/mul",
        f"{at}.down/linear",
        *scaled[1:],
        f"{at}/add_2",
    ]


def hidden_after(layer: int, spec: LlamaSpec) -> str:
    """The hidden state that a layer gives; that of the embedding, scaled, for -1."""
    if layer >= 0:
        return f"layers.{layer}/add_2"
    return EMBEDDED if spec.embed_scale == 1 else EMBEDDED_SCALED


EMBEDDED, EMBEDDED_SCALED = "embed/embedding", "model/scale"
PICKED, NORMED, UNSCALED = "model/pick", "norm/rms_norm", "model/unembed"


class Tapped:
    """One graph of an artifact, and the values of a few steps through it.

    Raises `Unfit` where the graph lacks a value that llx's graphs have, or does not load.
    """

    def __init__(self, artifact: Artifact, dialect: str) -> None:
        manifest = artifact.manifest
        require_computed(manifest.precision.compute)
        self.artifact, self.dialect, self.spec = artifact, dialect, manifest.spec
        spelled = dialect_named(dialect)
        self.delta = spelled.cache == "delta"
        self.grouped = dialect == ORT.name and groups(self.spec.head_dim)
        self.contract = spelled.contract_of(manifest.contract)
        self._model = onnx.load(artifact.graph(dialect), load_external_data=False)
        self._options = session_options(manifest.precision, dialect)
        self._options.add_session_config_entry(FOLDER_OPTION, str(artifact.folder))
        made = {name for node in self._model.graph.node for name in node.output}
        missing = [name for name in self._every_name() if name not in made]
        if missing:
            raise Unfit(
                f"{dialect}.onnx has no value {missing[0]}",
                "export again with --overwrite",
            )

    def tables(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cosines and sines at positions [T, R/2], as the artifact stores them, in float64."""
        stored = NUMPY_DTYPES[self.artifact.manifest.precision.compute]
        cos, sin = rope_tables(self.spec.rope, self.spec.rotated, positions)
        return cos.astype(stored).astype(np.float64), sin.astype(stored).astype(np.float64)

    def shown(self, layer: int) -> Shown:
        """Which of a layer's values the graph shows."""
        return Shown.of(self.spec, layer, self.grouped)

    def runs(self, steps: Sequence[Step]) -> Iterator[tuple[range, list[Values]]]:
        """The values of some layers at a time, and of each step; all steps are run each time.

        Beside the layers' values there are the cache before and after (`past.*`, `present.*`, the
        new alone where the graph gives no more), and with the last layers the logits' own.
        """
        spec = self.spec
        tokens = sum(len(step.tokens) for step in steps)
        widths = 9 * spec.dim + 4 * spec.q_dim + 4 * spec.kv_dim + 6 * spec.ffn_dim
        layers = max(1, MOST_BYTES // (4 * tokens * widths))
        for first in range(0, spec.layers, layers):
            chunk = range(first, min(first + layers, spec.layers))
            yield chunk, self._run(chunk, steps)

    def _run(self, layers: range, steps: Sequence[Step]) -> list[Values]:
        spec, contract = self.spec, self.contract
        names = [hidden_after(layers.start - 1, spec)]
        if layers.start == 0 and EMBEDDED not in names:
            names.insert(0, EMBEDDED)
        names += [name for layer in layers for name in names_of_layer(layer, self.shown(layer))]
        last = layers.stop == spec.layers
        if last:
            names += [PICKED, NORMED, *([] if spec.logit_scale == 1 else [UNSCALED])]
        session = self._session(names)
        asked = [*names, LOGITS, *cache_names(spec.layers, PRESENT)]
        past = cache_names(spec.layers, PAST)
        shape = (1, spec.kv_heads, contract.limits.capacity, spec.head_dim)
        cache = {name: np.zeros(shape, NUMPY_DTYPES[contract.compute]) for name in past}
        kept = [name for layer in layers for name in past[2 * layer : 2 * layer + 2]]
        found: list[Values] = []
        for step in steps:
            feeds = {
                INPUT_IDS: step.tokens[None],
                POSITION_IDS: step.positions[None],
                LOGIT_INDEX: np.arange(len(step.tokens), dtype=np.int64)[None],
            }
            try:
                given = session.run(asked, feeds | cache)
            except Exception as error:  # as when it loads
                raise failed_step(NAME, error) from None
            values = dict(zip(asked, given, strict=True))
            here: Values = {name: values[name][0] for name in names}
            for name in kept:
                # What is filled: the rest of a large cache would be kept for nothing.
                present = values[name.replace(PAST, PRESENT, 1)][0]
                here[name] = cache[name][0, :, : step.filled].copy()
                here[name.replace(PAST, PRESENT, 1)] = (
                    present if self.delta else present[:, : step.filled + 1].copy()
                )
            if last:
                here[LOGITS] = values[LOGITS][0]
            found.append(here)
            cache = self._written(cache, values, step)
        return found

    def _written(self, cache: Values, values: Values, step: Step) -> Values:
        """The cache as the next step finds it."""
        for name in cache:
            present = values[name.replace(PAST, PRESENT, 1)]
            if self.delta:
                cache[name][0, :, step.positions[0] : step.filled] = present[0]
            else:
                cache[name] = present
        return cache

    def _session(self, names: Sequence[str]) -> onnxruntime.InferenceSession:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return loaded(model.SerializeToString(), self._options, f"{self.dialect}.onnx")

    def _every_name(self) -> Iterator[str]:
        spec = self.spec
        yield hidden_after(-1, spec)
        for layer in range(spec.layers):
            yield from names_of_layer(layer, self.shown(layer))
        yield from (PICKED, NORMED, LOGITS, *cache_names(spec.layers, PRESENT))
