"""Every number of a result by one name, for programs that follow numbers over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llx.reports.notes import row_times
from llx.result import Estimate, PhaseFidelity, Result, SpeedRow

NORMAL_95 = 1.96  # standard errors on each side, many tokens


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, of which test or phase, with an interval around it.

    That is the 95 % one, and of times one standard deviation of the repetitions. `slug`: the same
    for every test. `more_is_better`: whether a larger number is the better one.
    """

    of: str
    name: str
    slug: str
    unit: str
    value: float
    interval: tuple[float, float] | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Figure:
    """What a phase of fidelity is judged by."""

    name: str
    slug: str
    unit: str
    estimate: Estimate
    more_is_better: bool


def phase_figures(phase: PhaseFidelity) -> tuple[Figure, ...]:
    """The three that count: KLD, PPL ratio, and the share of tokens with the same top-1."""
    kld = Estimate(value=phase.kld.mean, se=phase.kld.se)
    return (
        Figure("KLD", "kld", "nats", kld, False),
        Figure("PPL ratio", "ppl-ratio", "", phase.ppl_ratio, False),
        Figure("same top-1", "same-top1", "", phase.same_top1, True),
    )


def followed(results: Sequence[Result]) -> list[Result]:
    """The results whose numbers are followed over time: a baseline stood there for another."""
    return [result for result in results if result.against or not result.turns]


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
    for name, times in row_times(row):
        yield Measure(
            of=of,
            name=name,
            slug=name.lower(),
            unit="ms",
            value=times.mean,
            interval=(times.mean - times.sd, times.mean + times.sd),
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


def _of_phase(of: str, phase: PhaseFidelity) -> Iterator[Measure]:
    for figure in phase_figures(phase):
        scale, unit = (100, "%") if figure.more_is_better else (1, figure.unit or "ratio")
        value, half = scale * figure.estimate.value, scale * NORMAL_95 * figure.estimate.se
        yield Measure(
            of=of,
            name=figure.name,
            slug=figure.slug,
            unit=unit,
            value=value,
            interval=(value - half, value + half),
            more_is_better=figure.more_is_better,
        )
