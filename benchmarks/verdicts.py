"""How often verdicts in turns are right, by simulation: the figures in bench/against.py.

    python benchmarks/verdicts.py --runs 1500

Runs of a machine whose speed varies by so much (standard deviation of the logarithm, independent)
are taken in rounds, as `llx bench --against` does, until there is a verdict.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from llx.bench.against import compared
from llx.result import SpeedRow

NOISES = (0.015, 0.03, 0.047, 0.06, 0.08, 0.12, 0.2, 0.3)
RATIOS = (1.0, 0.9, 0.8, 0.5)  # of the candidate's speed to the baseline's
CYCLES, ROUNDS = 5, 12


def row(speeds: list[float]) -> SpeedRow:
    """A row of such speeds; what is worked out from them elsewhere is left at nothing."""
    return SpeedRow(
        test="tg128", isl=0, osl=128, depth=0, batch=1, samples=speeds, step_ns=[], mean=0.0,
        sd=0.0, ci95=(0.0, 0.0),
    )  # fmt: skip


def decided(dice: np.random.Generator, noise: float, ratio: float) -> tuple[str, bool]:
    """The verdict on a candidate of a ratio, and whether its interval holds that ratio."""
    before: list[float] = []
    after: list[float] = []
    for _ in range(ROUNDS):
        before += list(np.exp(dice.normal(0, noise, 2 * CYCLES)))
        after += list(ratio * np.exp(dice.normal(0, noise, CYCLES)))
        (found,) = compared([row(before)], [row(after)])
        if found.verdict != "inconclusive":
            break
    return found.verdict, found.ci95[0] <= ratio <= found.ci95[1]


def main() -> None:
    """Print, for each noise and ratio, the share of each verdict and the interval's coverage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1500)
    runs = parser.parse_args().runs
    for noise in NOISES:
        for ratio in RATIOS:
            dice = np.random.default_rng(3)
            found = [decided(dice, noise, ratio) for _ in range(runs)]
            counts = Counter(verdict for verdict, _ in found)
            shares = ", ".join(f"{said} {100 * n / runs:.1f} %" for said, n in counts.most_common())
            covers = 100 * sum(holds for _, holds in found) / runs
            print(f"noise {noise}, ratio {ratio}: {shares}; covers {covers:.1f} %", flush=True)


if __name__ == "__main__":
    main()
