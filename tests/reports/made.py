"""Results as if they had been measured, and texts that would do harm where they are not escaped."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import msgspec

from llx.result import Against, ComparedTest, Divergence, Estimate, Result, SpeedRow
from tests.reports.test_formats import CEILING, FIDELITY, PHASE, RESULT, ROW, TIMES

HOSTILE = (
    "</script><script>window.__pwned=1;alert(1)</script>",
    "<img src=x onerror=window.__pwned=1;alert(1)>",
    "'\"><svg onload=window.__pwned=1;alert(1)>",
    "datum['constructor']['constructor']('window.__pwned=1')()",
    "{{ 7*7 }}{% raw %}\u2028\u2029]]><!--<script>",
    "javascript:alert(1)//https://example.org/\u202ecod.exe\x1b[2J\x00\u2066",
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
        median=mean,
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
    phase = replace(PHASE, kld=told, kld_mean=kld, ppl_ratio=Estimate(value=1 + kld, se=kld / 9))
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


def candidate(ratio: float = 0.9, **more: Any) -> Result:
    """A result that was measured in turns with a baseline."""
    made = result(**more)
    tests = [
        ComparedTest(
            test=row.test,
            batch=row.batch,
            baseline_mean=row.mean / ratio,
            mean=row.mean,
            ratio=ratio,
            ci95=(ratio - 0.02, ratio + 0.02),
            ci_method="Student's t, paired",
            noise=0.01,
            verdict="slower" if ratio < 0.95 else "no change",
        )
        for row in made.speed
    ]
    against = Against(
        engine="torch",
        precision="fp32",
        artifact="before-fp32",
        artifact_sha256="0" * 64,
        threshold=0.05,
        tests=tests,
    )
    return replace(made, against=against, turns="a run")


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
