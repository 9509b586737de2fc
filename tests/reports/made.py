"""Results as if they had been measured, and texts that would do harm where they are not escaped."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

import msgspec

from llx.conditions import ContainerRecord, EnergyRecord, MachineRecord, RunRecord
from llx.result import (
    Against,
    ArtifactRecord,
    Ceiling,
    ComparedTest,
    Divergence,
    EnvironmentRecord,
    ErrorRecord,
    Estimate,
    Fidelity,
    MemoryRecord,
    PhaseFidelity,
    Result,
    SpanDivergence,
    SpeedRow,
    Times,
)

HOSTILE = (
    "</script><script>window.__pwned=1;alert(1)</script>",
    "<img src=x onerror=window.__pwned=1;alert(1)>",
    "'\"><svg onload=window.__pwned=1;alert(1)>",
    "datum['constructor']['constructor']('window.__pwned=1')()",
    "{{ 7*7 }}{% raw %}\u2028\u2029]]><!--<script>",
    "javascript:alert(1)//https://example.org/\u202ecod.exe\x1b[2J\x00\u2066",
)
ENERGY = EnergyRecord(
    source="RAPL",
    rail="package-0",
    window=12.5,
    joules=500.0,
    tokens=256,
    mj_per_token=1953.125,
    samples=4,
    coverage=1.0,
    error=1e-4,
    idle_watts=11.25,
)
TIMES = Times(mean=48.5, sd=2.0, p50=48.0, p90=50.0, p95=51.0, p99=52.0)
ROW = SpeedRow(
    test="tg128",
    isl=0,
    osl=128,
    depth=0,
    batch=1,
    samples=[20.0, 21.0],
    step_ns=[[1, 2], [3, 4]],
    mean=20.5,
    sd=0.7,
    median=20.5,
    ci95=(14.1, 26.9),
    ci_method="Student's t, mean",
    warmup=1,
    tpot_ms=TIMES,
    energy=ENERGY,
)
PHASE = PhaseFidelity(
    tokens=2555,
    ppl=11.66,
    ppl_se=0.63,
    ppl_ratio=Estimate(value=1.0, se=1e-6),
    kld_mean=1.4e-11,
    kld=Divergence(mean=1.4e-11, se=1e-13, p50=1e-11, p90=2e-11, p99=4e-11, max=1e-10),
    same_top1=Estimate(value=1.0, se=0.0),
    rms_dp=Estimate(value=1e-6, se=1e-8),
    max_abs_logit_error=1e-4,
    mean_abs_logit_error=1e-5,
    kld_bound=1.3e-11,
    kld_by_position=[
        SpanDivergence(first=0, last=255, mean=1e-11, se=1e-13),
        SpanDivergence(first=256, last=510, mean=2e-11, se=1e-13),
    ],
)
FIDELITY = Fidelity(
    reference_weights="the checkpoint",
    corpus="pydoc topics",
    corpus_sha256="ab" * 32,
    window=512,
    windows=5,
    stride=22484,
    bos="none",
    tokens=2555,
    top_k=256,
    tail_samples=64,
    ppl=11.66,
    ppl_se=0.63,
    ppl_reference=11.66,
    ppl_ratio=PHASE.ppl_ratio,
    kld=PHASE.kld,
    same_top1=PHASE.same_top1,
    rms_dp=PHASE.rms_dp,
    prefill=PHASE,
    decode=PHASE,
)
RESULT = Result(
    llx="0.1.0",
    created="2026-11-24T00:00:00+00:00",
    command="llx bench -o json",
    engine="ort",
    precision="fp32",
    dialect="standard",
    artifact=ArtifactRecord(
        name="tiny-fp32", sha256="cd" * 32, bytes=1000, params=2000, source="tiny", weights="dense"
    ),
    environment=EnvironmentRecord(
        device="a processor with a very long name indeed, 128 CPUs, 1024 GiB",
        device_fingerprint="ef",
        os="Linux",
        python="3.11",
        versions={"numpy": "2"},
        threads=2,
        clocks="not measured",
        power_mode="not measured",
        load_before=0.1,
        load_after=1.9,
        machine=MachineRecord(
            cpu="a processor",
            architecture="x86_64",
            system="Linux",
            memory_bytes=1 << 40,
            cpus=128,
            numa_nodes=2,
            smt=True,
            container=ContainerRecord(version="v2", cpus=1.5, memory_bytes=16 << 30),
        ),
        run=RunRecord(seconds=60.0, others_cpu=0.31, cpu_mhz_tests=(800.0, 3200.0)),
        notes=["others used 0.31 of a core meanwhile"],
    ),
    speed=[ROW],
    fidelity=FIDELITY,
    memory=MemoryRecord(peak_host_bytes=10**9, cache_bytes=10**6),
)
ERROR = ErrorRecord(message="engine trt is not here", remedy="install it", exit_code=3)
CRASH = ErrorRecord(message="the process died", remedy="look above", exit_code=70)
CEILING = Ceiling(
    by="numpy",
    working_set=1 << 28,
    threads=1,
    read_bytes_per_s=20.5e9,
    read_highest=22e9,
    read_samples=[20e9, 20.5e9, 22e9],
)
# What is one of a few words in a result, and no other.
FIXED = ("schema", "unit", "verdict", "reference")


def row(test: str, speed: float, repetitions: int = 5, steps: int = 64, **more: Any) -> SpeedRow:
    """A row of a speed; its samples and steps scatter by some percent, the same at each call."""
    dice = random.Random(f"{test} {speed}")
    samples = [speed * dice.gauss(1, 0.02) for _ in range(repetitions)]
    mean = sum(samples) / len(samples)
    tokens = more.get("osl") or more["isl"]
    count = steps if more.get("osl") else 1
    return replace(
        ROW,
        test=test,
        samples=samples,
        step_ns=[
            [
                round(1e9 * tokens / count / speed * dice.lognormvariate(0, 0.08))
                for _ in range(count)
            ]
            for _ in samples
        ],
        mean=mean,
        sd=0.02 * mean,
        median=statistics.median(samples),
        ci95=(0.97 * mean, 1.03 * mean),
        **{"isl": 0, "osl": 0, "energy": None, "tpot_ms": None, "roofline_probe": 0.5, **more},
    )


def result(
    engine: str = "ort",
    precision: str = "fp32",
    model: str = "tiny",
    speed: float = 40.0,
    kld: float = 1e-5,
    depths: tuple[int, ...] = (0,),
    steps: int = 64,
) -> Result:
    """A result with a prefill, a decode at each depth, and fidelity."""
    decode = [
        row(
            f"tg64 @ d{depth}" if depth else "tg64",
            speed / (1 + depth / 4096),
            steps=steps,
            osl=64,
            depth=depth,
            tpot_ms=replace(TIMES, mean=1e3 / speed),
        )
        for depth in depths
    ]
    prefill = row("pp256", 14 * speed, isl=256, ttft_ms=TIMES, roofline_probe=0.7)
    told = Divergence(mean=kld, se=kld / 20, p50=kld / 2, p90=3 * kld, p99=9 * kld, max=40 * kld)
    spans = [
        replace(span, mean=times * kld, se=kld / 9)
        for span, times in zip(PHASE.kld_by_position, (0.5, 1.5), strict=True)
    ]
    ratio = Estimate(value=1 + kld, se=kld / 9)
    phase = replace(PHASE, kld=told, kld_mean=kld, ppl_ratio=ratio, kld_by_position=spans)
    fidelity = replace(FIDELITY, kld=told, prefill=phase, decode=phase, ppl_ratio=phase.ppl_ratio)
    return replace(
        RESULT,
        engine=engine,
        precision=precision,
        artifact=replace(RESULT.artifact, name=f"{model}-{precision}"),
        environment=replace(RESULT.environment, notes=[]),
        speed=[prefill, *decode],
        fidelity=fidelity,
        ceiling=CEILING,
    )


def compared(
    test: str, before: float, ratio: float, verdict: str, margin: float = 0.02, noise: float = 0.01
) -> ComparedTest:
    """A test in turns, with its interval at a margin to either side."""
    return ComparedTest(
        test=test,
        batch=1,
        baseline_mean=before,
        mean=ratio * before,
        ratio=ratio,
        ci95=(ratio - margin, ratio + margin),
        ci_method="Student's t, paired",
        noise=noise,
        verdict=verdict,
    )


def against(engine: str, artifact: str, tests: list[ComparedTest]) -> Against:
    """What a candidate was measured in turns with."""
    return Against(
        engine=engine,
        precision="fp32",
        artifact=artifact,
        artifact_sha256="cd" * 32,
        threshold=0.05,
        tests=tests,
    )


def in_turns(ratio: float = 0.9, **more: Any) -> list[Result]:
    """A baseline and a candidate that were measured in turns."""
    made = result(**more)
    verdict = "slower" if ratio < 0.95 else "no change"
    tests = [compared(row.test, row.mean / ratio, ratio, verdict) for row in made.speed]
    versus = against(made.engine, made.artifact.name, tests)
    return [replace(made, turns="a run"), replace(made, against=versus, turns="a run")]


def with_texts(made: Result, text: str) -> Result:
    """A result that says one text wherever it may say any."""

    def said(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            named = key == "versions"
            return {text if named else k: said(item, k) for k, item in value.items()}
        if isinstance(value, list):
            return [said(item, key) for item in value]
        return text if isinstance(value, str) and key not in FIXED else value

    return msgspec.convert(said(msgspec.to_builtins(made)), Result)
