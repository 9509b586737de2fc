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
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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

# A drift is one that Kendall's test of order against size would show in less than 2 % of runs that
# have none, and that changes the speed by 2 % at least. Five repetitions must all follow in order:
# a loss of 10 % beside noise of 2 % is found in 38 % of the runs of 5, in 90 % of 10.
DRIFT_P, DRIFT_SHARE = 0.02, 0.02

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
    # Between the k smallest and the k largest lies the median, but for P(B < k) on either side.
    k = int(stats.binom.ppf((1 - level) / 2, n, 0.5))
    if k and outliers(speeds).count:
        ordered = np.sort(speeds)
        median = float(np.median(speeds))
        low, high = float(ordered[k - 1]), float(ordered[n - k])
        return Interval(low, high, median, "order statistics, median")
    low, high = stats.t.interval(level, n - 1, mean, stats.sem(speeds))
    return Interval(float(low), float(high), mean, "Student's t, mean")


def outliers(speeds: Speeds) -> Outliers:
    """What lies far from the rest. It is counted and stays in every statistic."""
    median = float(np.median(speeds))
    deviation = float(stats.median_abs_deviation(speeds, scale="normal"))
    off = speeds - median
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
    of two independent sets; means are geometric ones. Where outliers show, and there are enough of
    them for an interval at all, the median of Walsh averages or of all differences takes its
    place, with the interval of the signed-rank or rank-sum test (Hollander & Wolfe, Nonparametric
    Statistical Methods, 3.3 and 4.3): one spike in ten otherwise hides a change of 10 %.

    Simulated as above, n = 5, 10, 30, the interval of two equal sessions holds 1 in 95 to 97 % of
    runs, and a change of 10 % is found in 99 to 100 % where times are normal.
    """
    a, b = np.log(first), np.log(second)
    if paired:
        low, middle, high, method = _paired(b - a)
    else:
        low, middle, high, method = _independent(a, b)
    return Comparison(ratio=math.exp(middle), low=math.exp(low), high=math.exp(high), method=method)


def _paired(differences: Speeds) -> tuple[float, float, float, str]:
    n = len(differences)
    mean = float(differences.mean())
    if not np.ptp(differences):
        return mean, mean, mean, "equal pairs"
    i, j = np.triu_indices(n)
    k = _trimmed(n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24)
    if k and outliers(np.exp(differences)).count:
        walsh = np.sort((differences[i] + differences[j]) / 2)
        return *_ranked(walsh, k), "signed rank, paired"
    low, high = stats.t.interval(LEVEL, n - 1, mean, stats.sem(differences))
    return float(low), mean, float(high), "Student's t, paired"


def _independent(a: Speeds, b: Speeds) -> tuple[float, float, float, str]:
    n, m = len(a), len(b)
    k = _trimmed(n * m / 2, n * m * (n + m + 1) / 12)
    if k and (outliers(np.exp(a)).count or outliers(np.exp(b)).count):
        return *_ranked(np.sort(np.subtract.outer(b, a).ravel()), k), "rank sum"
    difference = float(b.mean() - a.mean())
    if not np.ptp(a) and not np.ptp(b):
        return difference, difference, difference, "equal samples"
    found = stats.ttest_ind(b, a, equal_var=False).confidence_interval(LEVEL)
    return float(found.low), difference, float(found.high), "Welch's t"


def _trimmed(mean: float, variance: float) -> int:
    """Which value from either end bounds the interval of a rank test; 0 where there are too few."""
    return max(0, math.floor(mean - float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(variance)))


def _ranked(ordered: Speeds, k: int) -> tuple[float, float, float]:
    return float(ordered[k - 1]), float(np.median(ordered)), float(ordered[-k])


def noise_floor(same: Comparison) -> float:
    """How large a change this machine may show between two runs of one thing, as a share."""
    return math.expm1(max(abs(math.log(same.low)), abs(math.log(same.high))))


def verdict(found: Comparison, noise: float, threshold: float = THRESHOLD) -> Verdict:
    """Whether there is a change. `noise`: the machine's own floor, of an A/A comparison.

    A change is larger than the threshold, its interval excludes none, and the threshold is above
    the floor. It is no change where the ratio is within the threshold and known to a threshold:
    twice that would have shown. All else is inconclusive, and never a pass.
    """
    large = math.log1p(threshold)
    change, low, high = (math.log(x) for x in (found.ratio, found.low, found.high))
    if noise > threshold:
        return "inconclusive"
    if abs(change) > large and not low <= 0 <= high:
        return "faster" if change > 0 else "slower"
    if abs(change) <= large and (high - low) / 2 <= large:
        return "no change"
    return "inconclusive"
