"""Numbers of a result that contradict one another: a file of them may be anybody's, or edited."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

MOST_NATS = 709.0  # of which a float still holds the exponential
SLACK = 1e-3  # of what is compared: somebody may have rounded
RISING = ("p50", "p90", "p95", "p99", "max")
# A statistic of samples that stand beside it, by their names.
OF_SAMPLES = (
    ("mean", "samples", statistics.fmean),
    ("median", "samples", statistics.median),
    ("load_s", "loads_s", statistics.median),
    ("read_bytes_per_s", "read_samples", statistics.median),
    ("flops_per_s", "flops_samples", statistics.median),
    ("ppl", "nll", lambda nll: math.exp(min(statistics.fmean(nll), MOST_NATS))),
)


def contradictions(value: object, name: str = "") -> Iterator[str]:
    """What cannot be so, each with the path of its field, in a record and all within it."""
    if isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield from contradictions(one, f"{name}[{i}]")
    if not is_dataclass(value) or isinstance(value, type):
        return
    at = f"{name}." if name else ""
    held = {field.name: getattr(value, field.name) for field in fields(value)}
    yield from (f"{at}{words}" for words in _of_record(held))
    for field, one in held.items():
        yield from contradictions(one, f"{at}{field}")


def _of_record(held: dict[str, Any]) -> Iterator[str]:
    low, high = held.get("ci95") or (0, 0)
    if low > high:
        yield f"ci95 is from {low:g} to {high:g}"
    if held.get("samples") == [] and "ci95" in held:
        yield "samples are none, and a mean of them is told"
    for name, samples, made in OF_SAMPLES:
        found, of = held.get(name), held.get(samples)
        if found is None or not isinstance(of, list) or not of:
            continue
        wanted = made(of)
        if abs(found - wanted) > SLACK * max(abs(found), abs(wanted)):
            yield f"{name} is {found:g}, and that of {samples} {wanted:g}"
    rising = [(name, held[name]) for name in RISING if held.get(name) is not None]
    for (less, one), (more, other) in itertools.pairwise(rising):
        if one > other * (1 + SLACK):
            yield f"{less} is {one:g}, and {more} {other:g}"
