"""Results before and after, as they are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.reports.made import RESULT, against, compared


def speed(seed, faster=1.0, noise=0.01, count=10, **changes):
    samples = 20 * faster * np.exp(np.random.default_rng(seed).normal(0, noise, count))
    row = replace(RESULT.speed[0], bytes_per_step_actual=10**8, **changes)
    middle = {"mean": float(samples.mean()), "median": float(np.median(samples))}
    return replace(row, samples=samples.tolist(), **middle)


def result(seed=0, faster=1.0, row=None, **changes):
    return replace(RESULT, speed=[row or speed(seed, faster)], **changes)


def on(device, found):
    environment = replace(found.environment, device=device, device_fingerprint=device)
    return replace(found, environment=environment)


def judged(kld=0.01, ratio=1.001, same=0.98, **changes):
    """RESULT, with fidelity of these figures."""
    phase = replace(
        RESULT.fidelity.prefill,
        kld=replace(RESULT.fidelity.prefill.kld, mean=kld),
        ppl_ratio=replace(RESULT.fidelity.prefill.ppl_ratio, value=ratio),
        same_top1=replace(RESULT.fidelity.prefill.same_top1, value=same),
    )
    fidelity = replace(RESULT.fidelity, prefill=phase, decode=phase, **changes)
    return replace(result(), fidelity=fidelity)


def turned(ratio, verdict, noise=0.01):
    """A baseline, and a candidate that was measured in turns with it."""
    test = compared("tg128", 20.0, ratio, verdict, margin=0.01, noise=noise)
    versus = against("ort", "tiny-fp32", [test])
    candidate = replace(result(2, faster=ratio), turns="t", against=versus)
    return replace(result(1), turns="t"), candidate
