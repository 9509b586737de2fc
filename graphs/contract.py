"""`GraphContract`: every input and output of a graph, and the limits of a step.

The names below are the only place where a graph's inputs and outputs are spelled. Letters:
B rows, T new tokens, K picked positions, S cache capacity, Hkv KV heads, D head size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.llama.spec import LlamaSpec
from llx.precision import Compute

INPUT_IDS = "input_ids"
POSITION_IDS = "position_ids"
LOGIT_INDEX = "logit_index"
LOGITS = "logits"
PAST, PRESENT = "past", "present"

DEFAULT_CAPACITY = 2048
DEFAULT_MAX_NEW_TOKENS = 512
DEFAULT_MAX_ROWS = 8
MOST_ROWS = 1 << 16

Shape = tuple[int | str, ...]
CacheKind = Literal["in-place", "delta"]
"""Whose work it is to write new keys and values into the cache.

in-place: the graph's. Past and present are the whole cache, bound at one address.
delta: the session's. Past is the whole cache, present only what is new, [B, Hkv, T, D].
"""


def cache_names(layers: int, prefix: str) -> list[str]:
    """Names of the cache tensors, key and value of each layer; prefix `PAST` or `PRESENT`."""
    return [f"{prefix}.{i}.{part}" for i in range(layers) for part in ("key", "value")]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may ask for: capacity S, most new tokens T, most rows B, and vocabulary V."""

    capacity: int
    max_new_tokens: int
    max_rows: int
    vocab: int


@dataclass(frozen=True, kw_only=True)
class GraphContract:
    """Inputs and outputs of every graph of an artifact; a dialect adds its kind of cache."""

    layers: int
    kv_heads: int
    head_dim: int
    compute: Compute
    limits: Limits

    def fits(self, spec: LlamaSpec, compute: Compute) -> bool:
        """Whether graphs of a model have this contract, in sizes that a step can have."""
        limits = self.limits
        return (
            (self.layers, self.kv_heads, self.head_dim, self.compute, limits.vocab)
            == (spec.layers, spec.kv_heads, spec.head_dim, compute, spec.vocab)
            and 1 <= limits.max_new_tokens <= limits.capacity <= spec.context
            and 1 <= limits.max_rows <= MOST_ROWS
        )

    @property
    def cache_shape(self) -> Shape:
        """Symbolic shape of each cache tensor."""
        return ("B", self.kv_heads, self.limits.capacity, self.head_dim)

    def inputs(self) -> dict[str, tuple[str, Shape]]:
        """Every input: name → (dtype, symbolic shape), in the order of the graph."""
        tokens: dict[str, tuple[str, Shape]] = {
            INPUT_IDS: ("int64", ("B", "T")),
            POSITION_IDS: ("int64", ("B", "T")),
            LOGIT_INDEX: ("int64", ("B", "K")),
        }
        past = cache_names(self.layers, PAST)
        return tokens | dict.fromkeys(past, (self.compute, self.cache_shape))

    def outputs(self, cache: CacheKind = "in-place") -> dict[str, tuple[str, Shape]]:
        """Every output: name → (dtype, symbolic shape), in the order of the graph."""
        present = cache_names(self.layers, PRESENT)
        new: Shape = ("B", self.kv_heads, "T", self.head_dim)
        shape = self.cache_shape if cache == "in-place" else new
        logits: dict[str, tuple[str, Shape]] = {LOGITS: ("fp32", ("B", "K", self.limits.vocab))}
        return logits | dict.fromkeys(present, (self.compute, shape))


def contract_for(spec: LlamaSpec, compute: Compute, context: int | None = None) -> GraphContract:
    """The contract of a model's graphs; `context` is the cache's capacity.

    Raises `BadInput` where the capacity asked for is more than the model was trained for.
    """
    if context is not None and context > spec.context and spec.rope.type == "dynamic":
        raise BadInput(
            f"--context {context} is beyond the {spec.context} positions that dynamic RoPE scaling "
            "leaves as trained: past them every angle depends on the sequence's length, and a "
            "graph's tables are fixed",
            f"choose a capacity of at most {spec.context} positions",
        )
    if context is not None and not 1 <= context <= spec.context:
        raise BadInput(
            f"--context {context} is outside the model's 1…{spec.context}",
            f"choose a capacity of at most {spec.context} positions",
        )
    capacity = context or min(spec.context, DEFAULT_CAPACITY)
    return GraphContract(
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        compute=compute,
        limits=Limits(
            capacity=capacity,
            max_new_tokens=min(capacity, DEFAULT_MAX_NEW_TOKENS),
            max_rows=DEFAULT_MAX_ROWS,
            vocab=spec.vocab,
        ),
    )


class ContractError(ValueError):
    """A step that a runtime would accept and answer wrongly: a bug of the caller's."""


class StepGuard:
    """Checks the contract's invariants before every step, because runtimes do not.

    A write past the capacity is silent in TensorRT, a gap in the positions silent everywhere.
    """

    def __init__(self, limits: Limits, rows: int) -> None:
        self._limits = limits
        self._filled = np.zeros(rows, dtype=np.int64)

    def reset(self) -> None:
        """Forget what was written: the next step starts at position 0."""
        self._filled[:] = 0

    def admit(
        self, tokens: NDArray[Any], positions: NDArray[Any], logit_index: NDArray[Any]
    ) -> None:
        """Raise `ContractError` unless tokens, positions [B, T], logit_index [B, K] are valid."""
        limits, rows = self._limits, len(self._filled)
        if tokens.ndim != 2 or tokens.shape != positions.shape or logit_index.ndim != 2:
            raise ContractError("tokens and positions must be [B, T] and logit_index [B, K]")
        b, t = tokens.shape
        if b != rows or len(logit_index) != rows:
            raise ContractError(f"the session was opened for {rows} rows, not {b}")
        if not 1 <= t <= limits.max_new_tokens:
            raise ContractError(f"{t} new tokens are outside 1…{limits.max_new_tokens}")
        if logit_index.shape[1] > limits.max_new_tokens:
            raise ContractError(f"{logit_index.shape[1]} picks are over {limits.max_new_tokens}")
        start = positions[:, 0]
        if not np.array_equal(positions, start[:, None] + np.arange(t)):
            raise ContractError("a row's positions must be contiguous")
        if start.min() < 0 or start.max() + t > limits.capacity:
            raise ContractError(
                f"positions {start.min()}…{start.max() + t - 1} are outside the cache's "
                f"{limits.capacity}"
            )
        if (start > self._filled).any():
            raise ContractError("a row's positions must follow on what its cache holds")
        if tokens.min() < 0 or tokens.max() >= limits.vocab:
            raise ContractError(f"a token is outside the vocabulary of {limits.vocab}")
        if not logit_index.size or logit_index.min() < 0 or logit_index.max() >= t:
            raise ContractError(f"logit_index must lie in 0…{t - 1}")
        self._filled[:] = start + t
