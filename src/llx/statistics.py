"""Statistics of repetitions: an interval, outliers, drift; two sets compared, and the verdict.

Speeds go in, tok/s of each repetition, in the order in which they were measured.

How the interval was chosen, by simulation: 20,000 runs each of times that are normal (sd 3 %),
lognormal (σ 0.1 and 0.3), and normal (sd 2 %) with 5 % of the repetitions 1.5 or 3 times as slow.
Coverage in % at n = 5, 10, 30 of what each calls 95 %:

    method, of what                normal      lognormal .1  lognormal .3  spikes 1.5  spikes 3
    Student's t, mean              95 95 95    95 95 95      93 94 94      78 61 78    37 40 78
    BCa bootstrap, mean            82 90 94    83 87 94      83 89 93      53 52 78    25 42 78
    BCa bootstrap, median          95 93 95    93 94 95      96 92 95      94 94 96    95 92 95
    order statistics, median       94 98 96    94 98 96      94 98 96      93 98 96    94 98 96
    `interval`, of what it names   95 95 95    95 95 95      94 94 94      –           –
    `interval`, median             95 95 95    95 95 90      95 95 91      96 96 95    96 96 95

So no bootstrap: with few repetitions it is too narrow. Student's t it is, until outliers show. Of
rare spikes no method knows the mean that has not seen one, and three of four runs of five have not.
What can be known then is the median, what a repetition usually does, and order statistics have it
in whatever distribution. Fewer than six of them hold it in 94 %, so five stay with Student's t,
whose interval holds the median too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Speeds = NDArray[np.float64]
Verdict = Literal["faster", "slower", "no change", "inconclusive"]

LEVEL = 0.95
# Who looks at an interval and goes on until it is narrow stops where it is narrow by chance. With
# looks at 5, 10, 20 and 30 repetitions, intervals of 95 % cover 92.4 to 95.0 % of the time, by the
# noise (20,000 runs each, with spikes and without). Those of this level cover 95.2 to 97.8 %: they
# are what is looked at, and what is reported as CI95.
LOOKED_AT_LEVEL = 0.97

# An outlier lies five times as far from the median as the deviation that the median absolute one
# stands for, and 5 % of the median at least. Of normal runs (sd 3 %) 6.4, 3.4 and 0.9 % have one at
# n = 5, 10, 30; of those with spikes, all that have a spike.
OUTLIER_DEVIATIONS, OUTLIER_SHARE = 5.0, 0.05
QUARTILE = float(special.ndtri(0.75))  # median absolute deviation of a standard normal

# A drift is one that Kendall's test of order against size would show in less than 2 % of runs that
# have none, and that changes the speed by 2 % at least. Five repetitions must all follow in order:
# a loss of 10 % beside noise of 2 % is found in 38 % of the runs of 5, in 90 % of 10.
DRIFT_P, DRIFT_SHARE = 0.02, 0.02

OF_MEDIANS = ("order statistics, paired", "rank sum")  # methods that compare medians
MOST_NATS = 709.0  # whose exponential a float still holds
THRESHOLD = 0.05  # a change that matters in practice


@dataclass(frozen=True)
class Interval:
    """An interval, what it is about, and by which method."""

    low: float
    high: float
    center: float
    method: str

    @property
    def half_width(self) -> float:
        """Half of its width, as a share of its center."""
        return (self.high - self.low) / 2 / self.center


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """How many, and how far the farthest lies from the median, as a share of it."""

    count: int
    farthest: float | None


def interval(speeds: Speeds, level: float = LEVEL) -> Interval:
    """The interval of the mean, or of the median where outliers show and there are enough speeds.

    A single speed, or equal ones, are their own interval.
    """
    mean, n = float(speeds.mean()), len(speeds)
    if n < 2 or not np.ptp(speeds):
        return Interval(mean, mean, mean, "none")
    if _bounding(n, level) and outliers(speeds).count:
        low, median, high = _of_median(speeds, level)
        return Interval(low, high, median, "order statistics, median")
    low, high = _students(speeds, level)
    return Interval(low, high, mean, "Student's t, mean")


def _students(values: Speeds, level: float = LEVEL) -> tuple[float, float]:
    n, mean = len(values), float(values.mean())
    half = float(special.stdtrit(n - 1, 0.5 + level / 2) * values.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def _of_median(values: Speeds, level: float = LEVEL) -> tuple[float, float, float]:
    ordered, k = np.sort(values), _bounding(len(values), level)
    return float(ordered[k - 1]), float(np.median(values)), float(ordered[-k])


@lru_cache(maxsize=1024)
def _bounding(n: int, level: float = LEVEL) -> int:
    """Which value from either end bounds the median's interval; 0 where n values are too few.

    Between the k-th smallest and the k-th largest lies the median, but for P(B < k) on either side.
    """
    return int(stats.binom.ppf((1 - level) / 2, n, 0.5))


def outliers(speeds: Speeds) -> Outliers:
    """What lies far from the rest. It is counted and stays in every statistic."""
    median = float(np.median(speeds))
    off = speeds - median
    deviation = float(np.median(np.abs(off))) / QUARTILE
    far = np.abs(off) > max(OUTLIER_DEVIATIONS * deviation, OUTLIER_SHARE * median)
    count = int(far.sum())
    farthest = float(off[np.abs(off).argmax()] / median) if count else None
    return Outliers(count=count, farthest=farthest)


def drift(speeds: Speeds) -> float | None:
    """The change from first to last repetition, as a share; None where no drift shows."""
    n = len(speeds)
    if n < 5 or not np.ptp(speeds):
        return None
    order = np.arange(n)
    change = float(stats.theilslopes(speeds, order).slope) * (n - 1) / float(np.median(speeds))
    shows = stats.kendalltau(order, speeds).pvalue < DRIFT_P and abs(change) >= DRIFT_SHARE
    return change if shows else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as fast the second is, with the 95 % interval of that ratio."""

    ratio: float
    low: float
    high: float
    method: str


def compare(first: Speeds, second: Speeds, *, paired: bool) -> Comparison:
    """The ratio of two sets of speeds. `paired`: measured in turns, so both drift alike.

    In logarithms, where a ratio is a difference: Student's t of the pairs' differences, or Welch's
    of two independent sets; means are geometric ones. One spike in ten would hide a change of 10 %
    from both. So where outliers show, and values are enough for an interval at all, medians take
    their place, with the interval of the median of the pairs' differences, or of the rank-sum test
    (Hollander & Wolfe, Nonparametric Statistical Methods, 4.3), which is of the same ratio and is
    widened where that lies outside.

    Simulated, 4,000 pairs of runs each, at n = 5, 10, 20: in % how often the interval of two equal
    sessions holds 1, how often `verdict` calls them "no change", and how often it finds a loss of
    10 % (floor 2 %, threshold 5 %):

                                       holds 1     no change     loss found
        normal, sd 1.5 %, paired       95 95 95    99 100 100    100 100 100
        normal, sd 1.5 %, independent  96 95 95    100 100 100   100 100 100
        normal, sd 3 %, paired         95 95 95    51 99 100     98 100 100
        normal, sd 3 %, independent    96 95 95    64 100 100    100 100 100
        spikes of 1.5, paired          96 97 96    53 80 100     60 93 100
        spikes of 1.5, independent     96 96 96    57 98 100     75 99 100
        lognormal, 0.1, paired         95 95 95    1 1 5         26 55 88
        lognormal, 0.1, independent    96 95 95    0 0 2         28 59 89

    What is neither is inconclusive: noisy sessions need more repetitions, and say so.
    """
    a, b = np.log(first), np.log(second)
    low, high, method = _paired(b - a) if paired else _independent(a, b)
    ratio = typical(second, method) / typical(first, method)
    low, high = min(math.exp(low), ratio), max(math.exp(high), ratio)
    return Comparison(ratio=ratio, low=low, high=high, method=method)


def typical(speeds: Speeds, method: str) -> float:
    """What a method of `compare` takes for a set of speeds: its median, or its geometric mean."""
    middle = np.median if method in OF_MEDIANS else np.mean
    return math.exp(float(middle(np.log(speeds))))


def paired_ratio(first: Speeds, second: Speeds) -> Comparison:
    """The ratio of two geometric means from the logarithms of paired values, by Student's t.

    Of what tokens cost, in nats, it is the ratio of two perplexities. There are thousands of them,
    and it is their mean that counts, outliers and all.
    """
    differences = np.clip(second - first, -MOST_NATS, MOST_NATS)
    ends = (*_students(differences), float(differences.mean()))
    low, high, ratio = (math.exp(min(end, MOST_NATS)) for end in ends)
    return Comparison(ratio=ratio, low=low, high=high, method="Student's t, paired")


def _paired(differences: Speeds) -> tuple[float, float, str]:
    mean = float(differences.mean())
    if not np.ptp(differences):
        return mean, mean, "equal pairs"
    if _bounding(len(differences)) and outliers(np.exp(differences)).count:
        low, _, high = _of_median(differences)
        return low, high, OF_MEDIANS[0]
    return *_students(differences), "Student's t, paired"


def _independent(a: Speeds, b: Speeds) -> tuple[float, float, str]:
    n, m = len(a), len(b)
    difference = float(b.mean() - a.mean())
    if not np.ptp(a) and not np.ptp(b):
        return difference, difference, "equal samples"
    far = special.ndtri(0.5 + LEVEL / 2) * math.sqrt(n * m * (n + m + 1) / 12)
    k = math.floor(n * m / 2 - far)
    if k > 0 and (outliers(np.exp(a)).count or outliers(np.exp(b)).count):
        apart = np.sort(np.subtract.outer(b, a).ravel())
        return float(apart[k - 1]), float(apart[-k]), OF_MEDIANS[1]
    parts = a.var(ddof=1) / n, b.var(ddof=1) / m
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(sum(parts))
    return difference - half, difference + half, "Welch's t"


def noise_floor(same: Comparison) -> float:
    """How large a change this machine may show between two runs of one thing, as a share."""
    return math.expm1(max(abs(math.log(same.low)), abs(math.log(same.high))))


def verdict(found: Comparison, noise: float, threshold: float = THRESHOLD) -> Verdict:
    """Whether there is a change. `noise`: the machine's own floor, of an A/A comparison.

    A change is larger than the threshold, its interval excludes none, and the threshold is above
    the floor. It is no change where the ratio is within the threshold and known to a threshold:
    twice that would have shown. Where the floor is above the threshold, a change whose whole
    interval lies beyond the floor is one all the same. All else is inconclusive, and never a pass.
    """
    large = math.log1p(threshold)
    change, low, high = (math.log(x) for x in (found.ratio, found.low, found.high))
    if noise > threshold:
        beyond = min(abs(low), abs(high)) > math.log1p(noise) and low * high > 0
        return "inconclusive" if not beyond else "faster" if change > 0 else "slower"
    if abs(change) > large and not low <= 0 <= high:
        return "faster" if change > 0 else "slower"
    if abs(change) <= large and (high - low) / 2 <= large:
        return "no change"
    return "inconclusive"
