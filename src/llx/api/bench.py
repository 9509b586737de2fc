"""`llx.bench`: speed and fidelity of one or several engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llx.api.against import baseline_of
from llx.api.engines import built_for, engines_named, require_intact, runs_here
from llx.api.reference import Texts, with_references
from llx.api.results import Interrupted, Results, errors_of
from llx.api.watching import AnyArtifact, Tell, call_in_words, opened, telling, watched
from llx.arguments import door
from llx.artifact import Artifact
from llx.bench.against import InTurns
from llx.bench.machine.kernel import multiplies_halves
from llx.bench.run import Measurement
from llx.bench.speed.rows import MIN_REPETITIONS
from llx.bench.speed.samples import Workload
from llx.bench.worker import LIMIT_S, Job
from llx.errors import BadInput
from llx.progress import Progress
from llx.reports.units import counted
from llx.result import Result
from llx.statistics import THRESHOLD

USUAL = {"prompts": (512,), "generated": (128,)}
USUAL_QUICK = {"prompts": (256,), "generated": (32,)}
MOST_REPETITIONS, MOST_IN_TURNS = 30, 60
MOST_RUNS = 1_000_000


@door
def bench(
    artifact: AnyArtifact | Sequence[Artifact | str | Path] = None,
    *,
    engines: str | Sequence[str] = "ort",
    provider: str | None = None,
    inference_precision: str | None = None,
    prompts: Sequence[int] | None = None,
    generated: Sequence[int] | None = None,
    requests: Sequence[tuple[int, int]] = (),
    depths: Sequence[int] = (0,),
    batches: Sequence[int] = (1,),
    repetitions: int = 5,
    until: float | None = None,
    max_repetitions: int | None = None,
    warmup: int = 1,
    seed: int = 0,
    quick: bool = False,
    fidelity: bool | None = None,
    texts: Texts = (),
    trust_engine: bool = False,
    roofline: bool = True,
    limit: float = LIMIT_S,
    resume: bool = False,
    against: Artifact | str | Path | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    command: str | None = None,
) -> Results:
    """Measure speed, and fidelity against PyTorch in fp32, each test in a process of its own.

    A script needs no `if __name__ == "__main__":` for it: the processes do not run the script.

    Args:
        artifact: An artifact or its folder, or several. None: the one exported last.
        engines: Names, such as ["torch", "ort"]; on a GPU "torch-cuda", "ort-cuda", "trt-rtx", ….
        provider: Of ONNX Runtime, with "ort" alone: "cpu", "cuda" or "tensorrt".
        inference_precision: Of OpenVINO, with "openvino" alone: "f32", "bf16", or "auto", its own.
        prompts: Prompt lengths in tokens, each a test `ppN`. None: 512, or 256 if `quick`.
        generated: Generated lengths in tokens, each a test `tgN`. None: 128, or 32 if `quick`.
        requests: Whole requests, (input, output) lengths in tokens; prompts and generated lengths
            are then none unless given.
        depths: Positions that are filled before; every test is run at every depth.
        batches: Rows, B; every test is run with each.
        repetitions: Runs that count. Fewer than 5 make a row that is INVALID.
        until: Go on until the 95 % interval is within this share of the speed, such as 0.01.
        max_repetitions: Where `until` and `against` end at the latest. None: 30, in turns 60.
        warmup: Runs before the first that counts.
        seed: Of the random prompts.
        quick: A short look, without fidelity, that is not to be published.
        fidelity: Judge against the PyTorch reference. None: unless `quick`.
        texts: Files of UTF-8 text to judge on. None given: all that `reference` has captured, or
            else half of Python's documentation, and some of its code.
        trust_engine: Load a built engine that is not this user's own.
        roofline: Probe what this machine can do, and hold the speeds to it.
        limit: Seconds that a test may take before it is stopped.
        resume: Go on where the same run was cut off.
        against: Measure in turns with another artifact, a file of its results, or another engine.
        threshold: With `against`, the change that matters, as a share. None: 0.05.
        progress: Called with what is done, how much of how much, and the unit. None: bars.
        tell: Called with notices, and with what went wrong. None: the logger `llx`.
        command: What stands in the results as the way to repeat them. None: this call.

    Returns:
        A result for each artifact and engine; with `against`, for each baseline and candidate.
        Speeds are in tokens per second, KLD in nats per token. An engine that this machine lacks
        and a test that crashed are parts of it: see `Results.errors`.

    Raises:
        BadInput: Unknown engines, lengths that do not fit the artifact, options at odds.
        Interrupted: Ctrl-C; a `KeyboardInterrupt` that carries what was measured.

    """
    command = command or call_in_words(bench, locals())
    names = engines_named(engines, provider, inference_precision)
    for name, share in (("until", until), ("threshold", threshold)):
        if share is not None and not 0 < share < 1:
            raise BadInput(f"{name} {share:g} is no share", "give one above 0 and below 1")
    if not limit >= 1:
        raise BadInput(f"a limit of {limit:g} s stops every test", "give 1 s or more")
    for option, count in (
        ("-r", repetitions),
        ("--warmup", warmup),
        ("--max-repetitions", max_repetitions or 0),
    ):
        if not 0 <= count <= MOST_RUNS:
            raise BadInput(f"{option} {count} is outside 0…{MOST_RUNS}", "give fewer")
    usual_most = MOST_REPETITIONS if against is None else MOST_IN_TURNS
    most = usual_most if max_repetitions is None else max_repetitions
    if until and not MIN_REPETITIONS <= repetitions <= most:
        raise BadInput(
            f"--until begins with {MIN_REPETITIONS} repetitions or more, and ends with as many "
            f"or more: not {repetitions} and {most}",
            f"write -r {MIN_REPETITIONS} --max-repetitions 30",
        )
    if threshold and against is None:
        raise BadInput("--threshold is of a comparison", "add --against, or leave it out")
    judged = not quick if fidelity is None else fidelity
    if texts and not judged:
        raise BadInput("a text is to judge on, and nothing is judged", "leave --text out")
    usual = dict.fromkeys(USUAL, ()) if requests else USUAL_QUICK if quick else USUAL
    workload = Workload(
        prompts=usual["prompts"] if prompts is None else tuple(prompts),
        generated=usual["generated"] if generated is None else tuple(generated),
        requests=tuple(requests),
        depths=tuple(depths),
        batches=tuple(batches),
        repetitions=repetitions,
        warmup=warmup,
        seed=seed,
        until=until,
        most_repetitions=most,
        quick=quick,
    )
    several: list[AnyArtifact] = (
        [artifact]
        if artifact is None or isinstance(artifact, Artifact | str | Path)
        else [*artifact]
    )
    found = [opened(one) for one in several or [None]]
    for one in found:
        workload.require_fit(one.manifest.contract.limits, context=one.manifest.spec.context)
    settings = {"limit_s": limit, "roofline": roofline, "resume": resume}

    def jobs(of: Artifact, engines: list[str]) -> list[Job]:
        return jobs_for(
            of, engines, workload, judged, trust_engine, command, progress, tell, texts, **settings
        )

    if repetitions < MIN_REPETITIONS and against is None:
        telling(tell)(
            f"fewer than {MIN_REPETITIONS} repetitions have no interval that holds: every row "
            f"will be INVALID; write -r {MIN_REPETITIONS} or more"
        )
    candidates = [(one, job) for one in found for job in jobs(one, names)]
    if against is None:
        return run_all([job for _, job in candidates], progress, tell)
    pairs = [
        (job, jobs(of, [name])[0])
        for one, job in candidates
        for of, name in [baseline_of(against, one, job.engine)]
    ]
    return _run_in_turns(pairs, threshold or THRESHOLD, progress, tell)


def jobs_for(
    artifact: Artifact,
    names: list[str],
    workload: Workload,
    fidelity: bool,
    trust: bool,
    command: str,
    progress: Progress | None = None,
    tell: Tell | None = None,
    texts: Texts = (),
    **settings: Any,
) -> list[Job]:
    """A job for each engine, with what it needs: an engine that was built, its references.

    `texts`: to judge on, as `bench` has them. `settings`: what else a `Job` takes.

    Raises `BadInput` where the workload does not fit an engine that was built.
    """
    built = {
        name: built_for(artifact, name, workload, trust, command, progress, tell) for name in names
    }
    _tell_of_halves(artifact, names, telling(tell))
    references = artifact.manifest.references if fidelity else ()
    require_intact(artifact, names, *references, progress=progress)
    if fidelity and any(map(runs_here, names)):
        artifact, references = with_references(artifact, texts, tell, progress=progress)
    return [
        Job(
            folder=artifact.folder,
            engine=name,
            workload=workload,
            fidelity=fidelity,
            references=references,
            command=command,
            built=which,
            problem=problem,
            sha256=artifact.sha256,
            **settings,
        )
        for name, (which, problem) in built.items()
    ]


def _tell_of_halves(artifact: Artifact, names: list[str], tell: Tell) -> None:
    compute = artifact.manifest.precision.compute
    if "torch" in names and compute == "fp16" and multiplies_halves() is False:
        tell(
            "this CPU has no fp16 instructions, and PyTorch takes many times as long as in fp32: "
            "export with --precision fp32 for a CPU"
        )


def run_all(jobs: list[Job], progress: Progress | None = None, tell: Tell | None = None) -> Results:
    """The results of one engine after the other. What has no numbers is told at once.

    Raises `Interrupted` with those that there are by then.
    """
    results, told = Results(), telling(tell)
    for job in jobs:
        measurement = Measurement(job)
        if job.resume and not measurement.was_cut_off():
            told(f"nothing is kept of such a run on {job.engine}: it begins anew")
        try:
            with watched(progress, f"{job.engine}: ") as news:
                measurement.run(news)
        except KeyboardInterrupt:
            if measurement.unkept:
                told(f"what was measured is below, and not kept for --resume: {measurement.unkept}")
            elif measurement.counts[0]:
                done, asked = measurement.counts
                told(
                    f"{done} of {counted(asked, 'test')} {'is' if done == 1 else 'are'} kept: the "
                    "same command with --resume goes on from there"
                )
            raise Interrupted(Results([*results, measurement.result()])) from None
        if measurement.unkept:
            told(f"nothing was kept for --resume while it ran: {measurement.unkept}")
        results.append(measurement.result())
        _tell_errors(results[-1:], told)
    return results


def _run_in_turns(
    pairs: list[tuple[Job, Job]], threshold: float, progress: Progress | None, tell: Tell | None
) -> Results:
    """The results of each baseline and candidate, given as (candidate, baseline)."""
    results = Results()
    for job, baseline in pairs:
        turns = InTurns(job, baseline, threshold)
        try:
            with watched(progress, f"{job.engine} and {baseline.engine}: ") as news:
                turns.run(news)
        except KeyboardInterrupt:
            results += turns.results()
            _tell_errors(results, telling(tell))
            raise Interrupted(results) from None
        results += turns.results()
    _tell_errors(results, telling(tell))
    return results


def _tell_errors(results: Sequence[Result], tell: Tell) -> None:
    """A line for each thing that went wrong."""
    for error in (error for result in results for error in errors_of(result)):
        tell(f"{error.message}: {error.remedy}")
