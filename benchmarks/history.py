"""How often a history tells right what a run is, and since when: by simulation, and by real runs.

    python benchmarks/history.py --runs 400
    python benchmarks/history.py artifacts/smollm2-135m-instruct-fp32 --runs 20 -p 256 -n 64

Simulated are runs whose speeds are normal, normal with 5 % of them ten deviations too slow,
correlated by a half from run to run, or of Student's t with three degrees of freedom. Real runs are
measurements one after another, each judged by those before it; then as many again whose steps are
made longer by a share (--slower), which come last in the same history.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from turns import MARK, run_longer

from llx.bench import run as running
from llx.bench.run import bench
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job
from llx.reports.compare.courses import courses_of, followed_steps
from llx.reports.compare.pairs import against_past, compare_results
from llx.reports.compare.past import Past
from llx.reports.history import read_history, remember
from llx.reports.levels import Spread, level_starts, split
from llx.result import Result

Noise = Callable[[np.random.Generator, int], np.ndarray]
THRESHOLD = 0.05
LENGTHS = (12, 30, 80)  # of histories
LOSSES = (0.0, 0.05, 0.1, 0.2, 0.5)
DEVIATIONS = (0.01, 0.03, 0.1)
LEAST = 6  # runs before one is judged by them


def _correlated(dice: np.random.Generator, runs: int) -> np.ndarray:
    values, x = np.empty(runs), dice.normal()
    for i in range(runs):
        x = 0.5 * x + math.sqrt(0.75) * dice.normal()
        values[i] = x
    return values


NOISES: dict[str, Noise] = {
    "normal": lambda dice, runs: dice.normal(size=runs),
    "spikes": lambda dice, runs: dice.normal(size=runs) - 10 * (dice.random(runs) < 0.05),
    "correlated": _correlated,
    "Student's t": lambda dice, runs: dice.standard_t(3, size=runs),
}


def steps_told(noise: Noise, count: int) -> Iterator[str]:
    """Steps where there is none, and those of five deviations, three and ten runs after them."""
    for runs in LENGTHS:
        dice = np.random.default_rng(1)
        made = [noise(dice, runs) for _ in range(count)]
        false = 100 * sum(len(level_starts(one)) > 1 for one in made) / count
        found = []
        for later in (one for one in (3, 10) if runs > 2 * one):
            lost = [np.where(np.arange(runs) < runs - later, one, one - 5) for one in made]
            starts = [level_starts(one) for one in lost]
            near = sum(any(abs(s - runs + later) <= 1 for s in one[1:]) for one in starts)
            found.append(f"{100 * near / count:.0f} % after {later}")
        yield f"{runs} runs: a step too many {false:.1f} %; of 5 deviations {', '.join(found)}"


def verdicts_told(noise: Noise, count: int) -> Iterator[str]:
    """What the next run is said to be, by loss and deviation."""
    for deviation in DEVIATIONS:
        for runs in (8, *LENGTHS[1:]):
            said = []
            for loss in LOSSES:
                dice, counts = np.random.default_rng(2), Counter[str]()
                for _ in range(count):
                    *before, now = deviation * noise(dice, runs + 1)
                    levels = split(np.array(before), level_starts(np.array(before)))
                    spread = Spread.of(levels)
                    assert spread is not None
                    ratio = math.exp(now - np.median(levels[-1])) * (1 - loss)
                    counts[spread.judge(ratio, len(levels[-1]), THRESHOLD)[0]] += 1
                shares = "/".join(
                    f"{100 * counts[one] / count:.0f}" for one in ("slower", "faster", "no change")
                )
                said.append(f"loss {loss:.0%} {shares}")
            yield f"deviation {deviation:.0%}, {runs} runs: {', '.join(said)}"


def simulate(count: int) -> None:
    """Print the rates: of verdicts the % that are slower/faster/no change, else inconclusive."""
    for name, noise in NOISES.items():
        for line in (*steps_told(noise, count), *verdicts_told(noise, count)):
            print(f"{name}: {line}", flush=True)


def measured(job: Job, count: int) -> Iterator[Result]:
    """So many runs, one after another."""
    for _ in range(count):
        result = bench(job)
        said = ", ".join(f"{row.name} {row.speed:.4g}" for row in result.speed)
        print(f"{job.command}: {said}", flush=True)
        yield result


def really(job: Job, slower: float, count: int, path: Path) -> None:
    """Measure, keep, and print what is said of each run, and of each pair of neighbours."""
    counts: Counter[str] = Counter()

    def judge(name: str, run: Result, before: Result | None) -> None:
        past = Past(read_history(path), [run])
        found = against_past([run], past)
        changes = [(f"{name}, by the history", one) for one in (found.changes if found else ())]
        if before is not None:
            pair = compare_results([before], [run], past=past)
            changes += [(f"{name}, two runs apart", one) for one in pair.changes]
        for of, change in changes:
            if change.kind == "wall clock":
                counts[f"{of}: {change.verdict}"] += 1
                print(f"  {of}: {change.metric} {change.verdict}, {change.ratio:.3f}; {change.why}")

    last = None
    for i, run in enumerate(measured(job, count)):
        if i >= LEAST:
            judge("the same", run, last)
        remember([run], path, f"same {i + 1}")
        last = run
    lost = replace(job, command=f"{MARK}{1 / (1 - slower) - 1}")
    for i, run in enumerate(list(measured(lost, count // 4))):
        judge(f"{slower:.0%} slower", run, last)
        remember([run], path, f"slower {i + 1}")
    for line, number in sorted(counts.items()):
        print(f"{line} {number}")
    for step in followed_steps(courses_of(read_history(path))):
        low, high = step.ci95 or (math.nan, math.nan)
        said = f"{step.course.metric} {step.ratio:.3f} ({low:.3f} … {high:.3f})"
        print(f"step: {said} at {step.at.label}")


def main() -> None:
    """Simulate, or measure where an artifact is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--slower", type=float, default=0.2, help="speed that is lost, as a share")
    parser.add_argument("-p", dest="prompt", type=int, default=256)
    parser.add_argument("-n", dest="generated", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="a file to keep the history in")
    chosen = parser.parse_args()
    if chosen.artifact is None:
        simulate(chosen.runs)
        return
    running.run_scenario = run_longer
    job = Job(
        folder=chosen.artifact,
        engine=chosen.engine,
        workload=Workload(prompts=(chosen.prompt,), generated=(chosen.generated,)),
        fidelity=False,
        command=f"{MARK}0",
        roofline=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        kept = chosen.keep or Path(folder) / "history.jsonl"
        really(job, chosen.slower, chosen.runs, kept)


if __name__ == "__main__":
    main()
