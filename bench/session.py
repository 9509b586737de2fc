"""The protocol of a session: one engine, its cache, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput, Lacking, LlxError, one_line
from llx.graphs.contract import Limits
from llx.refused import refused

Tokens = NDArray[np.int64]
Details = dict[str, Any]  # plain text and numbers: it becomes JSON


class Unfit(BadInput):
    """An engine does not load an artifact's graph, or fails in a step of it. Exit code 2."""


def failed_step(runtime: str, error: Exception) -> LlxError:
    """Why a step failed in a runtime: memory, threads, or a graph whose nodes do not fit."""
    if "alloc" in str(error).lower():
        return Lacking(
            f"{runtime} has no memory for a step ({one_line(error)})",
            "choose a smaller --batch, or export with a smaller --context",
        )
    return refused(error) or Unfit(
        f"{runtime} cannot run the artifact's graph ({one_line(error)})",
        "export again with --overwrite",
    )


@dataclass(frozen=True)
class Memory:
    """What an engine holds: `cache_bytes` of KV cache, `device_bytes` in all on a GPU, at most."""

    cache_bytes: int
    device_bytes: int | None = None


@dataclass(frozen=True)
class Built:
    """Which built engine runs, where the engine is one that is built.

    `folder`: None is the newest that fits. `trust`: load it although this user did not build it.
    """

    folder: Path | None = None
    trust: bool = False


class Session(Protocol):
    """An engine with its KV cache. It knows no scenario, no clock and no tokenizer.

    `enqueue` checks the step against the contract (`ContractError`), starts it, and may return
    before it is done; `sync` waits; `logits` are the last step's, float32 [B, K, V], on the host
    and valid until the next step.
    """

    limits: Limits
    rows: int
    weights: str  # which weights these are, in words, for the result
    reads_capacity: bool  # whether attention reads all slots of the cache, or the filled ones

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Start one step: tokens and positions [B, T], logit_index [B, K]."""

    def sync(self) -> None:
        """Wait until the step is done."""

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]."""

    def reset(self) -> None:
        """Forget the cache: the next step starts at position 0."""

    def memory(self) -> Memory:
        """What the engine holds."""

    def close(self) -> None:
        """Let go of the engine and its cache."""

    def details(self) -> Details:
        """Versions and settings that a result must name."""
