"""`llx.check/1`: what a check found, as data: the lines, each engine, the error over depth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec


@dataclass(kw_only=True)
class Subject:
    """An engine's largest logit error by phase, root mean square over the vocabulary."""

    name: str
    prefill: float
    decode: float
    allowed: float


@dataclass(kw_only=True)
class Depth:
    """The hidden state after a layer (-1: the embedding) beside PyTorch's, in a graph's prefill.

    Both are root mean squares, as shares of the hidden state's own: `error` is the graph's, and
    `explained` what rounding to its type does.
    """

    graph: str
    layer: int
    error: float | None
    explained: float | None


@dataclass(kw_only=True)
class Fault:
    """The first op that is off: its error and what is allowed, as shares of its largest value."""

    op: str
    layer: int | None
    phase: str
    error: float | None
    allowed: float | None
    cause: str | None
    ruled_out: list[str]
    seen_in: str


@dataclass(kw_only=True)
class Checked:
    """A check, as far as it went.

    `passed`: all that was looked at is right, and it went to its end. `failed` is the line that it
    ended with where it is not so, or did not.
    """

    schema: Literal["llx.check/1"] = "llx.check/1"
    artifact: str
    precision: str
    reference: str = ""
    lines: list[str] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    depth: list[Depth] = field(default_factory=list)
    fault: Fault | None = None
    passed: bool = False
    failed: str | None = None


def checked_json(checked: Checked) -> str:
    """As JSON; what is infinite or no number is null."""
    return msgspec.json.format(msgspec.json.encode(checked), indent=1).decode()
