"""How the next token is chosen, and the texts that an answer stops at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llx.errors import BadInput, GateFailed


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, as transformers defines it, in this order.

    `repetition_penalty` divides the logits above 0 of tokens that stand in the text already, and
    multiplies the others of theirs; `temperature` divides all, and 0 takes the likeliest; `top_k`
    leaves the likeliest so many, and all that are level with the last of them, where 0 leaves all;
    `top_p` leaves the nucleus: the smallest set of likeliest tokens whose share of what is left
    reaches it (Holtzman et al., 2019, arXiv:1904.09751).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise BadInput(f"--temperature is {self.temperature:g}", "choose 0 for greedy, or more")
        if not 0 < self.top_p <= 1:
            raise BadInput("--top-p is outside 0…1", "choose a share of the probability")
        if self.top_k < 0:
            raise BadInput(f"--top-k is {self.top_k}", "choose how many tokens, or 0 for all")
        if not 0 < self.repetition_penalty < math.inf:
            raise BadInput(
                f"--repetition-penalty is {self.repetition_penalty:g}",
                "choose 1 for none, or more, such as 1.1",
            )
        if self.seed < 0:
            raise BadInput(f"--seed is {self.seed}", "choose 0 or more")


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    rng: np.random.Generator,
    seen: Sequence[int] = (),
) -> int:
    """The next token from logits [V], after a text of the tokens `seen`."""
    if not np.isfinite(logits).all():
        raise GateFailed(
            "the engine's logits are not finite",
            "the weights are damaged, or too large for the precision: export with --precision fp32",
        )
    if sampling.temperature == 0:
        return int(penalized(logits, sampling.repetition_penalty, seen).argmax())
    p = probabilities(logits, sampling, seen)
    kept = np.flatnonzero(p)
    return int(rng.choice(kept, p=p[kept]))


def penalized(
    logits: NDArray[np.float32], penalty: float, seen: Sequence[int]
) -> NDArray[np.float64]:
    """Logits [V] with those of seen tokens made less likely by a penalty above 1."""
    values = logits.astype(np.float64)
    if penalty != 1 and len(seen):
        ids = np.unique(np.asarray(seen, dtype=np.int64))
        with np.errstate(over="ignore"):
            values[ids] = np.where(values[ids] < 0, values[ids] * penalty, values[ids] / penalty)
        values = np.clip(values, -MOST, MOST)
    return values


MOST = 1e300  # penalties next to 0 or without bounds leave finite numbers


def probabilities(
    logits: NDArray[np.float32], sampling: Sampling, seen: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The probability [V] that each token is drawn with; the temperature is above 0."""
    values = penalized(logits, sampling.repetition_penalty, seen)
    with np.errstate(over="ignore"):  # next to 0 it is greedy: all but the likeliest vanish
        values = (values - values.max()) / sampling.temperature
    if 0 < sampling.top_k < len(values):
        least = np.partition(values, -sampling.top_k)[-sampling.top_k]
        values[values < least] = -np.inf
    p: NDArray[np.float64] = np.exp(values)
    p /= p.sum()
    if sampling.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= sampling.top_p]] = 0
        p /= p.sum()
    return p


class StopTexts:
    """Lets a text through, piece by piece, up to the first place where one of some texts is whole.

    Where several end there, the longest counts. What may still become one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise BadInput("--stop is an empty text, which stands everywhere", "leave it out")
        self._stops = tuple(dict.fromkeys(stops))
        self._held = ""
        self.met = False

    def step(self, piece: str) -> str:
        """What of the text may be shown after another piece; `met` says whether it stops there."""
        self._held += piece
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.met = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        open_ = max(map(self._open, self._stops), default=0)
        at = len(self._held) - open_
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """What was held back, where the text ends without it."""
        shown, self._held = self._held, ""
        return shown

    def _open(self, stop: str) -> int:
        """How many characters at the end are the beginning of a text that stops."""
        most = min(len(stop) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(stop[:n])), 0)
