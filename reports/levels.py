"""Steps in what is measured again and again, and how far runs lie apart where there is none.

Logarithms go in, where a ratio is a difference. Levels are those of the least penalised sum of
squares (Killick et al. 2012, PELT, as ruptures has it), in units of the noise, which neighbours'
differences tell whatever steps there are. What a running median calls a spike is cut off before: a
level has three runs at least, and a spike makes none.

Of 400 histories each of 12, 30 and 80 runs, this finds a step where there is none in, %: normal
0.5 0 0; 5 % spikes of ten deviations 0 1 0.8; correlated by a half from run to run 3.8 7.8 6.8;
Student's t of three degrees 1 0 0.2. A loss of five deviations is found at its run or beside it
three runs later in 74, 87 and 88 % of the normal ones, ten runs later in all
(`benchmarks/history.py --runs 400`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from llx.errors import require_modules
from llx.statistics import LEVEL, QUARTILE, Comparison, Verdict, verdict

Logs = NDArray[np.float64]
Runs = TypeVar("Runs", Logs, list[Any])

SHORTEST = 3  # runs of a level
PENALTY = 10.0  # of a step, in the noise's variance, for each e-fold of runs
SPIKE = 2.0  # deviations from the running median that count
NOISELESS = 10.0  # deviations of the least step that stands out
FEWEST = 5  # degrees of freedom from which on the noise is known: t is 4.0 and 2.6 standard errors
# A gate fails by hundreds of numbers in the life of a branch: a change needs more than 95 %.
CHANGE_LEVEL = 0.99
MEDIAN_VARIANCE = math.pi / 2  # of the median of normal values, to that of their mean


def level_starts(values: Logs) -> list[int]:
    """Where each level begins, the first at 0. Raises `Lacking` where ruptures is not installed."""
    n = len(values)
    apart = np.abs(np.diff(values))
    if n < 2 * SHORTEST or not apart.any():
        return [0]
    require_modules("steps in a history", "report", "ruptures")
    from ruptures import KernelCPD
    from scipy.ndimage import median_filter

    # Where half of all runs are equal to the one before, there is no noise to speak of.
    deviation = float(np.median(apart)) or float(apart[apart > 0].min()) / NOISELESS
    units = values / (deviation / (QUARTILE * math.sqrt(2)))
    usual = median_filter(units, 2 * SHORTEST + 1, mode="mirror")
    cut = np.clip(units, usual - SPIKE, usual + SPIKE)
    found = KernelCPD(kernel="linear", min_size=SHORTEST).fit(cut)
    return [0, *map(int, found.predict(pen=PENALTY * math.log(n))[:-1])]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far runs of one level lie apart: their deviation, and that of the farthest, in logs."""

    runs: int
    deviation: float
    freedom: int
    farthest: float

    @classmethod
    def of(cls, levels: list[Logs]) -> Spread | None:
        """The spread within levels together; None where they have too few runs."""
        off = np.concatenate([level - np.median(level) for level in levels])
        freedom = len(off) - len(levels)
        if freedom < FEWEST:
            return None
        squares = sum(float(((level - level.mean()) ** 2).sum()) for level in levels)
        return cls(
            runs=len(off),
            deviation=math.sqrt(squares / freedom),
            freedom=freedom,
            farthest=float(np.abs(off).max()),
        )

    def half_width(self, before: int, level: float = LEVEL) -> float:
        """How far a run may lie from the median of so many before it, in logs."""
        t = float(special.stdtrit(self.freedom, 0.5 + level / 2))
        of_median = 1.0 if before == 1 else MEDIAN_VARIANCE / before
        return t * self.deviation * math.sqrt(1 + of_median)

    def noise(self, before: int) -> float:
        """By which share a run must differ from so many before it, to be another level."""
        return math.expm1(max(self.half_width(before, CHANGE_LEVEL), self.farthest))

    def half_width_of_medians(self, before: int, after: int) -> float:
        """How far the ratio of two levels' medians may be off, at 95 %, in logs."""
        t = float(special.stdtrit(self.freedom, 0.5 + LEVEL / 2))
        return t * self.deviation * math.sqrt(MEDIAN_VARIANCE * (1 / before + 1 / after))

    def judge(self, ratio: float, before: int, threshold: float) -> tuple[Verdict, Comparison]:
        """Whether a run is another level than so many before it, and its ratio to their median.

        A change lies beyond the threshold, beyond 99 % of what runs of one thing would show, and
        farther out than any of them did: where spikes are, the next one is no change.
        """
        at_95, at_99 = (self._around(ratio, before, level) for level in (LEVEL, CHANGE_LEVEL))
        said = verdict(at_99, 0.0, threshold)
        if said == "inconclusive":
            said = "no change" if verdict(at_95, 0.0, threshold) == "no change" else said
        elif said != "no change" and abs(math.log(ratio)) <= self.farthest:
            said = "inconclusive"
        return said, at_95

    def _around(self, ratio: float, before: int, level: float) -> Comparison:
        half = math.exp(self.half_width(before, level))
        method = f"Student's t of {self.runs} runs"
        return Comparison(ratio=ratio, low=ratio / half, high=ratio * half, method=method)


def split(values: Runs, starts: Iterable[int]) -> list[Runs]:
    """The values, or the runs, of each level."""
    return [values[first:last] for first, last in pairwise([*starts, len(values)])]
