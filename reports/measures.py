"""Every number of a result by one name, for programs that follow numbers over time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, NamedTuple

from llx.reports.notes import row_times
from llx.result import Estimate, Fidelity, PhaseFidelity, Result, SpeedRow, on_text
from llx.scores import Scores

NORMAL_95 = 1.96  # standard errors on each side, many tokens
# What must be the same for two fidelities to be of the same tokens, and two scores of the same
# documents, asked in the same way: of the settings, and of the task.
PROTOCOL = ("reference", "corpus_sha256", "window", "windows", "stride", "bos", "scored")
DECIDING = (
    *("limit", "num_fewshot", "capacity", "chat_template", "date", "fewshot_as_multiturn"),
    *("seed", "fewshot_seed"),
)
OF_TASK = ("version", "documents", "fewshot")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, of which test or phase, with an interval around it.

    That is the 95 % one, and of times one standard deviation of the repetitions. `slug`: the same
    for every test. `more_is_better`: whether a larger number is the better one.
    `protocol`: a hash of what else must be the same, such as the tokens.
    """

    of: str
    name: str
    slug: str
    unit: str
    value: float
    interval: tuple[float, float] | None = None
    more_is_better: bool = False
    protocol: str = (
        ""  # a hash of what must be the same for two to be of one thing, beside the name
    )


class Other(NamedTuple):
    """A number beside speed and fidelity, better when smaller: its kind, unit, value and test."""

    kind: Literal["deterministic", "wall clock"]
    unit: str
    value: float
    of: str


def other_numbers(result: Result) -> dict[str, Other]:
    """Every number of a result beside speed, fidelity and bytes, by what a gate calls it."""
    found: dict[str, Other] = {}
    for row in result.speed:
        if not row.valid:
            continue
        times = dict(row_times(row)) | ({"ITL": row.itl_ms} if row.itl_ms else {})
        for name, percentiles in times.items():
            for part in ("p50", "p90", "p95", "p99"):
                value = getattr(percentiles, part)
                found[f"{name} {part}, {row.name}"] = Other("wall clock", "ms", value, row.name)
        if row.energy and row.energy.mj_per_token is not None:
            value = row.energy.mj_per_token
            found[f"energy, {row.name}"] = Other("wall clock", "mJ/token", value, row.name)
    if memory := result.memory:
        for name, size in (
            ("peak host memory", memory.peak_host_bytes),
            ("peak device memory", memory.peak_device_bytes),
            ("cache bytes", memory.cache_bytes),
        ):
            if size is not None:
                found[name] = Other("deterministic", "B", float(size), name)
    if result.time:
        found["load time"] = Other("wall clock", "s", result.time.load_s, "load time")
        if result.time.build_s is not None:
            found["build time"] = Other("wall clock", "s", result.time.build_s, "build time")
    return found


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
    protocols = {text: _of_tokens(one) for text, one in result.judged().items()}
    for name, text, phase in result.phases():
        for measure in _of_phase(on_text(name, text), phase):
            yield replace(measure, protocol=protocols[text])
    if result.scores:
        yield from _of_scores(result.scores)
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
        value=row.speed,
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
    half = NORMAL_95 * phase.ppl_se
    yield Measure(
        of=of,
        name="PPL",
        slug="ppl",
        unit="PPL",
        value=phase.ppl,
        interval=(phase.ppl - half, phase.ppl + half),
    )


def _of_scores(scores: Scores) -> Iterator[Measure]:
    settings = [getattr(scores.settings, name) for name in DECIDING]
    for name, task, metric in scores.metrics():
        if metric.higher_is_better is None:
            continue
        half = None if metric.stderr is None else NORMAL_95 * metric.stderr
        yield Measure(
            of=name,
            name="score",
            slug="score",
            unit="",
            value=metric.value,
            interval=None if half is None else (metric.value - half, metric.value + half),
            more_is_better=metric.higher_is_better,
            protocol=_digest(*settings, *(getattr(task, one) for one in OF_TASK)),
        )


def _of_tokens(fidelity: Fidelity) -> str:
    """What two fidelities have in common that are of the same tokens."""
    same = (getattr(fidelity, name) for name in (*PROTOCOL, "tokens", "tokens_sha256"))
    return _digest(*same)


def _digest(*parts: object) -> str:
    return sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]
