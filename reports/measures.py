"""Every number of a result by one name, for programs that follow numbers over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llx.result import PhaseFidelity, Result, SpeedRow, Times


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, of which test or phase, with the interval that it is known to.

    `slug`: the same for every test. `more_is_better`: whether a larger number is the better one.
    """

    of: str
    name: str
    slug: str
    unit: str
    value: float
    interval: tuple[float, float] | None = None
    more_is_better: bool = False


def measures(result: Result) -> Iterator[Measure]:
    """All numbers that may be published: no invalid row's, no quick one's."""
    for row in result.speed:
        if row.valid and not row.quick:
            yield from _of_row(row)
    if result.fidelity:
        yield from _of_phase("prefill", result.fidelity.prefill)
        yield from _of_phase("decode", result.fidelity.decode)
    yield Measure(
        of="artifact", name="size", slug="size", unit="bytes", value=result.artifact.bytes
    )
    memory = result.memory
    if memory and memory.peak_host_bytes is not None:
        yield Measure(
            of="memory",
            name="peak host memory",
            slug="peak-host-memory",
            unit="bytes",
            value=memory.peak_host_bytes,
        )


def _of_row(row: SpeedRow) -> Iterator[Measure]:
    of = row.name
    yield Measure(
        of=of,
        name="speed",
        slug="speed",
        unit=row.unit,
        value=row.mean,
        interval=row.ci95,
        more_is_better=True,
    )
    for name, times in (("TTFT", row.ttft_ms), ("TPOT", row.tpot_ms), ("E2E", row.e2e_ms)):
        if times:
            yield Measure(
                of=of,
                name=name,
                slug=name.lower(),
                unit="ms",
                value=times.mean,
                interval=_around(times),
            )
    if row.roofline_probe is not None:
        yield Measure(
            of=of,
            name="share of the roofline",
            slug="roofline-share",
            unit="%",
            value=100 * row.roofline_probe,
            more_is_better=True,
        )
    if row.energy and row.energy.mj_per_token is not None:
        yield Measure(
            of=of, name="energy", slug="energy", unit="mJ/token", value=row.energy.mj_per_token
        )


def _around(times: Times) -> tuple[float, float]:
    return times.mean - times.sd, times.mean + times.sd


def _of_phase(of: str, phase: PhaseFidelity) -> Iterator[Measure]:
    kld, ratio, same = phase.kld, phase.ppl_ratio, phase.same_top1
    for name, slug, unit, value, se in (
        ("KLD", "kld", "nats", kld.mean, kld.se),
        ("PPL ratio", "ppl-ratio", "ratio", ratio.value, ratio.se),
        ("same top-1", "same-top1", "%", 100 * same.value, 100 * same.se),
    ):
        yield Measure(
            of=of,
            name=name,
            slug=slug,
            unit=unit,
            value=value,
            interval=(value - 1.96 * se, value + 1.96 * se),
            more_is_better=slug == "same-top1",
        )
