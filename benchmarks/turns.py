"""Whether verdicts on this machine can be trusted: an artifact in turns with itself.

    python benchmarks/turns.py artifacts/smollm2-135m-instruct-fp32 --runs 10 -p 256 -n 24

Each run compares the artifact with itself, twice: as it is, where only "no change" is right, and
with each step of the candidate made longer by a share (--slower), where only "slower" is. A run on
a quiet machine takes minutes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from llx.bench import run as running
from llx.bench.against import InTurns
from llx.bench.speed import samples
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job, Outcome, Scenario, run_scenario
from llx.progress import Progress

MARK = "slower by "  # in the command of a job: by how much its steps are longer
MOST_REPETITIONS = 60


def run_longer(scenario: Scenario, progress: Progress) -> Outcome:
    """Run a scenario, each step of it as much longer as its job's command says."""
    share = float(scenario.job.command.removeprefix(MARK) or 0)
    timed_step = samples.timed_step

    def longer(*step: object) -> int:
        took_ns = timed_step(*step)
        start, extra_ns = time.perf_counter_ns(), share * took_ns
        time.sleep(extra_ns / 1e9)
        while time.perf_counter_ns() - start < extra_ns:
            pass
        return took_ns + time.perf_counter_ns() - start if share else took_ns

    samples.timed_step = longer
    return run_scenario(scenario, progress)


def main() -> None:
    """Compare, print each verdict, and count them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--slower", type=float, default=0.1, help="speed that is lost, as a share")
    parser.add_argument("-p", dest="prompt", type=int, default=256)
    parser.add_argument("-n", dest="generated", type=int, default=24)
    chosen = parser.parse_args()
    running.run_scenario = run_longer
    job = Job(
        folder=chosen.artifact,
        engine=chosen.engine,
        workload=Workload(
            prompts=(chosen.prompt,),
            generated=(chosen.generated,),
            most_repetitions=MOST_REPETITIONS,
        ),
        fidelity=False,
        command=f"{MARK}0",
        roofline=False,
    )
    lost = replace(job, command=f"{MARK}{1 / (1 - chosen.slower) - 1}")
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(chosen.runs):
        for name, candidate in (("itself", job), (f"{chosen.slower:.0%} slower", lost)):
            turns = InTurns(candidate, job)
            turns.run()
            _, found = turns.results()
            assert found.against is not None
            for test, row in zip(found.against.tests, found.speed, strict=True):
                counts[name, test.verdict] += 1
                low, high = test.ci95
                print(
                    f"{name}: {test.test} {test.verdict}, {test.ratio:.3f} ({low:.3f} … {high:.3f})"
                    f", noise {test.noise:.3f}, {len(row.samples)} repetitions",
                    flush=True,
                )
    for (name, verdict), count in sorted(counts.items()):
        print(f"{name}: {count} {verdict}")


if __name__ == "__main__":
    main()
