"""What each plot of the page shows: plain rows, which its table shows too. `charts` draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from llx.reports.compare.change import Change
from llx.reports.compare.courses import Course
from llx.reports.html.runs import Looks, Row, Run, headline, kind_of
from llx.reports.measures import NORMAL_95
from llx.reports.notes import OWN_TEXT, model_name, shown_test
from llx.reports.steps import short_label
from llx.reports.units import minute, significant
from llx.result import PhaseFidelity, SpeedRow, on_text

MOST_ROWS = 60  # of one plot: what more there is stands in the tables of the page
MOST_LINES = 12  # over positions: a dozen points each
MOST_POINTS = 500  # of a plot over time: the latest
FOLLOWED = ("speed", "ppl", "kld", "ppl-ratio", "score", "size")  # over time, by their slugs
MOST_SAMPLES = 20  # that are named where a pointer rests
QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot's data: `columns` are the fields that its table shows, with their headings.

    The other fields say where and in which colour a mark is drawn.
    """

    kind: str
    title: str
    caption: str
    columns: dict[str, str]
    rows: list[Row]
    most_rows: int = MOST_ROWS


def plots_of(runs: Sequence[Run]) -> list[Plot]:
    """Every plot that there is data for."""
    makers = (_fidelity, _roofline, _latency, _depth, _phases, _positions)
    return [_thinned(plot) for plot in (make(runs) for make in makers) if plot.rows]


def changes_plot(changes: Sequence[Change], looks: Looks) -> Plot:
    """The change of each speed against the baseline's, and of each share of the roofline."""
    models = [model_name(change.artifact, change.precision) for change in changes]
    several = len({*models}) > 1
    rows: list[Row] = [
        {
            "name": f"{change.engine} {change.precision} · {change.metric}"
            + (f" · {model}" if several else ""),
            **looks.fields(change.engine, change.precision),
            "verdict": change.verdict,
            "unit": change.unit,
            "before": change.before,
            "after": change.after,
            "change": change.ratio - 1,
            "change_low": change.ci95[0] - 1,
            "change_high": change.ci95[1] - 1,
            "threshold": change.threshold or 0.0,
            "threshold_low": 1 / (1 + (change.threshold or 0.0)) - 1,
            "why": change.why,
        }
        for change, model in zip(changes, models, strict=True)
        if change.ratio and change.ci95 and change.kind != "deterministic"
    ]
    return _thinned(
        Plot(
            kind="against",
            title="Change of speed",
            caption="Right is faster than the baseline. Band: what a change must exceed to count, "
            "which is more where the two were not measured in turns. Bars: 95 % intervals; "
            "of shares of the roofline, how steady the probes were.",
            columns={
                "name": "run",
                "verdict": "verdict",
                "before": "baseline",
                "after": "this",
                "unit": "unit",
                "change": "change",
                "change_low": "CI95 from",
                "change_high": "to",
                "threshold": "threshold",
                "why": "why",
            },
            rows=rows,
        )
    )


def history_plots(courses: Sequence[Course], looks: Looks) -> list[Plot]:
    """A plot for each measure that was taken twice at least, speeds first.

    A line is of one engine, precision, artifact and device: another machine's is another line.
    """
    plots: dict[tuple[str, str, str, str], list[Course]] = {}
    for one in courses:
        measure = one.measure
        if measure.slug in FOLLOWED:
            key = (measure.slug, measure.of, measure.name, measure.unit)
            plots.setdefault(key, []).append(one)
    columns = {"at": "at", "label": "of", "series": "run", "value": "value", "low": "from"}
    columns |= {"high": "to", "level": "level"}
    drawn = []
    for key in sorted(plots, key=lambda key: FOLLOWED.index(key[0])):
        _, of, name, unit = key
        if all(len(one.points) < 2 for one in plots[key]):
            continue
        rows = [
            row for one in plots[key] for row in _course_rows(one, _line_of(one, courses), looks)
        ]
        drawn.append(
            Plot(
                kind="history",
                title=f"{of}, {name}",
                caption=f"{unit}; bars: 95 % intervals. Lines: levels, each with a band that a "
                "single run leaves where something changed; a ratio stands where a level began.",
                columns=columns,
                rows=rows[-MOST_POINTS:],
            )
        )
    return drawn


def _line_of(course: Course, courses: Sequence[Course]) -> str:
    """What a course is called: one name of several settings or machines is not one line."""
    series = course.series
    alike = {
        (one.series.device_fingerprint, one.series.threads)
        for one in courses
        if one.device == course.device
    }
    settings = f" {series.device_fingerprint[:6]}" if len({a for a, _ in alike}) > 1 else ""
    if len({threads for _, threads in alike}) > 1 and series.threads:
        settings += f", {series.threads} threads"
    return f"{series.engine} {series.precision}, {series.artifact}, {course.device}{settings}"


def _course_rows(course: Course, line: str, looks: Looks) -> Iterator[Row]:
    """A row for each run, with the level that it is of, and the step that it begins."""
    steps = {step.at: step for step in course.steps()}
    for i, level in enumerate(course.levels):
        middle = course.middle(level)
        noise = course.spread.noise(len(level)) if course.spread else 0.0
        for point in level:
            low, high = point.interval or (point.value, point.value)
            step = steps.get(point) if point is level[0] else None
            yield {
                "series": line,
                "of_level": f"{line} {i}",
                "label": point.label,
                "commit": short_label(point.label) or minute(point.created),
                "created": point.created,
                "at": minute(point.created),
                "value": point.value,
                "low": low,
                "high": high,
                "level": middle,
                "band_low": middle / (1 + noise),
                "band_high": middle * (1 + noise),
                "step": step.ratio if step else None,
                "step_words": f"{step.ratio:.3g} ×" if step and step.ratio else "",
                **looks.fields(course.series.engine, course.series.precision),
            }


def _thinned(plot: Plot) -> Plot:
    """A plot of so many rows as can be told apart, which says what it leaves out."""
    most = plot.most_rows
    if len(plot.rows) <= most:
        return plot
    said = f"Thinned: the first {most} of {len(plot.rows)} rows."
    return replace(plot, caption=f"{plot.caption} {said}", rows=plot.rows[:most])


def _samples(row: SpeedRow) -> str:
    shown = ", ".join(significant(sample) for sample in row.samples[:MOST_SAMPLES])
    more = len(row.samples) - MOST_SAMPLES
    return f"{shown} and {more} more" if more > 0 else shown


def _speed(row: SpeedRow) -> Row:
    return {
        "test": shown_test(row.test, row.batch),
        "speed": row.speed,
        "speed_low": row.ci95[0],
        "speed_high": row.ci95[1],
        "samples": _samples(row),
    }


SPEED = {"speed": "tok/s", "speed_low": "CI95 from", "speed_high": "to"}


def _valid(runs: Sequence[Run]) -> Iterator[tuple[Run, SpeedRow]]:
    return ((run, row) for run in runs for row in run.result.speed if row.valid)


def _floor(values: Sequence[float]) -> float:
    """Where 0 and less are drawn on a logarithmic axis: a decade below the least that is more."""
    least = min((value for value in values if value > 0), default=1e-12)
    return float(10.0 ** (math.floor(math.log10(least)) - 1))


def _interval(phase: PhaseFidelity) -> tuple[float, float]:
    half = NORMAL_95 * phase.kld.se
    return phase.kld.mean - half, phase.kld.mean + half


def _fidelity(runs: Sequence[Run]) -> Plot:
    """Decode speed against the KLD of decoding, and the front of what nothing beats in both."""
    found = [
        (run, row, run.result.fidelity.decode)
        for run in runs
        if (row := headline(run.result, "decode")) and row.valid and run.result.fidelity
    ]
    floor = _floor([phase.kld.mean for _, _, phase in found])
    rows: list[Row] = []
    for run, row, phase in found:
        low, high = _interval(phase)
        beaten = any(
            other.speed >= row.speed
            and judged.kld.mean <= phase.kld.mean
            and (other.speed, judged.kld.mean) != (row.speed, phase.kld.mean)
            for _, other, judged in found
        )
        rows.append(
            {
                **run.fields,
                **_speed(row),
                "kld": phase.kld.mean,
                "kld_se": phase.kld.se,
                "x": max(phase.kld.mean, floor),
                "x_low": max(low, floor),
                "x_high": max(high, floor),
                "front": not beaten,
            }
        )
    _place_labels(rows)
    zero = " A KLD of 0 is drawn at the left edge." if any(r["kld"] == 0 for r in rows) else ""
    return Plot(
        kind="fidelity",
        title="Speed against fidelity",
        caption="Up is faster, left is nearer to PyTorch fp32. The line joins what nothing else "
        f"beats in both (the Pareto front). Bars: 95 % intervals.{zero}",
        columns={
            "label": "run",
            "test": "test",
            **SPEED,
            "kld": "KLD, nats",
            "kld_se": "SE",
            "front": "on the front",
            "samples": "samples, tok/s",
        },
        rows=rows,
    )


def _place_labels(rows: list[Row]) -> None:
    """Above what is on the front; below what is not, neighbours to the left and to the right."""
    beaten = sorted((row for row in rows if not row["front"]), key=itemgetter("x"), reverse=True)
    for row in rows:
        row["label_at"] = "above"
    for place, row in enumerate(beaten):
        row["label_at"] = ("right", "left")[place % 2]


def _roofline(runs: Sequence[Run]) -> Plot:
    """The share that each row reached of what the probe could do in its run."""
    found = [(run, row) for run, row in _valid(runs) if row.roofline_probe is not None]
    thinned = ""
    if len(found) > MOST_ROWS:
        of_runs = [headline(run.result, kind) for run in runs for kind in ("prefill", "decode")]
        kept = [(run, row) for run, row in found if any(row is one for one in of_runs)]
        thinned = f" Thinned: one test of each kind of a run, {len(kept)} of {len(found)} rows."
        found = kept
    rows: list[Row] = []
    for run, row in found:
        share = row.roofline_probe
        if share is not None and row.speed > 0:
            rows.append(
                {
                    **run.fields,
                    **_speed(row),
                    "name": f"{run.label} · {shown_test(row.test, row.batch)}",
                    "share": share,
                    "share_low": share * row.ci95[0] / row.speed,
                    "share_high": share * row.ci95[1] / row.speed,
                    "ceiling": row.speed / share if share else None,
                }
            )
    return Plot(
        kind="roofline",
        title="Share of the roofline",
        caption="What each test reached of what the machine could do: reads a second for decode, "
        "FLOPs a second for prefill, by a probe in the same run. Lines: 95 % "
        f"intervals.{thinned}",
        columns={
            "name": "run",
            "share": "share",
            "share_low": "CI95 from",
            "share_high": "to",
            "speed": "tok/s",
            "ceiling": "tok/s at 100 %",
            "samples": "samples, tok/s",
        },
        rows=rows,
    )


def decode_steps_ms(row: SpeedRow) -> list[float]:
    """The times of the decode steps of all repetitions, sorted; a request's prefill left out."""
    outputs = row.osl - 1 if row.isl else row.osl
    if outputs < 1:
        return []
    return sorted(ns / 1e6 for steps in row.step_ns for ns in steps[-outputs:])


def quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile of sorted values, between the two nearest in proportion."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _latency(runs: Sequence[Run]) -> Plot:
    """How long single decode steps took."""
    rows: list[Row] = []
    for run in runs:
        row = headline(run.result, "decode") or headline(run.result, "request")
        steps = decode_steps_ms(row) if row and row.valid else []
        if row and steps:
            rows.append(
                {
                    **run.fields,
                    "name": f"{run.label} · {shown_test(row.test, row.batch)}",
                    "steps": len(steps),
                    **{name: quantile(steps, share) for name, share in QUANTILES.items()},
                    "max": steps[-1],
                }
            )
    return Plot(
        kind="latency",
        title="Latency of a decode step",
        caption="Dark: the middle half of all steps; light: 5 to 95 %; line: 1 to 99 %; stroke: "
        "the median; point: the slowest. Thinned: these quantiles stand for the steps.",
        columns={
            "name": "run",
            "steps": "steps",
            **{name: f"{name} ms" for name in QUANTILES},
            "max": "max ms",
        },
        rows=rows,
    )


def _depth(runs: Sequence[Run]) -> Plot:
    """Decode speed over the positions filled beforehand, where there are several depths."""
    depths: dict[tuple[str, int, int], set[int]] = {}
    decoded = [(run, row) for run, row in _valid(runs) if kind_of(row) == "decode"]
    for run, row in decoded:
        depths.setdefault((run.label, row.osl, row.batch), set()).add(row.depth)
    rows: list[Row] = [
        {
            **run.fields,
            **_speed(row),
            "series": f"{run.label} · {shown_test(f'tg{row.osl}', row.batch)}",
            "depth": row.depth,
        }
        for run, row in decoded
        if len(depths[run.label, row.osl, row.batch]) > 1
    ]
    return Plot(
        kind="depth",
        title="Decode over depth",
        caption="Depth: positions of the cache that were filled beforehand. Bars: 95 % intervals.",
        columns={
            "series": "run",
            "depth": "depth",
            **SPEED,
            "samples": "samples, tok/s",
        },
        rows=rows,
    )


def _judged(runs: Sequence[Run]) -> Iterator[tuple[Run, str, str, PhaseFidelity]]:
    """Both phases of all that runs were judged on: the phase's name, and that with the text's."""
    for run in runs:
        for name, text, phase in run.result.phases():
            yield run, name, on_text(name, text), phase


def _phases(runs: Sequence[Run]) -> Plot:
    """The KLD of prefill and of decode, with the tail of single tokens."""
    found = list(_judged(runs))
    floor = _floor([phase.kld.mean for *_, phase in found])
    rows: list[Row] = []
    for run, name, on, phase in found:
        low, high = _interval(phase)
        kld = phase.kld
        rows.append(
            {
                **run.fields,
                "name": f"{run.label} · {on}",
                "phase": name,
                "tokens": phase.tokens,
                "kld": kld.mean,
                "kld_se": kld.se,
                "p50": kld.p50,
                "p90": kld.p90,
                "p99": kld.p99,
                "max": kld.max,
                "x": max(kld.mean, floor),
                "x_low": max(low, floor),
                "x_high": max(high, floor),
                "x_p90": max(kld.p90, floor),
                "x_p99": max(kld.p99, floor),
            }
        )
    zero = " 0 is drawn at the left edge." if any(row["kld"] == 0 for row in rows) else ""
    return Plot(
        kind="phases",
        title="KLD by phase",
        caption="Point: the mean over tokens, with its 95 % interval; strokes: what 90 and 99 % of "
        f"the tokens stay below.{zero}",
        columns={
            "name": "run",
            "tokens": "tokens",
            "kld": "KLD, nats",
            "kld_se": "SE",
            "p50": "p50",
            "p90": "p90",
            "p99": "p99",
            "max": "max",
        },
        rows=rows,
    )


def _positions(runs: Sequence[Run]) -> Plot:
    """The KLD over the position in the window: a cache or a table that is wrong shows here."""
    judged = list(_judged(runs))
    # Windows of another text are other windows: a page has this plot of one of them.
    first = next((on.removeprefix(name) for _, name, on, _ in judged), "")
    lines = [
        (run, name, on, phase.kld_by_position)
        for run, name, on, phase in judged
        if phase.kld_by_position and on == f"{name}{first}"
    ]
    thinned = ""
    if len(lines) > MOST_LINES:
        of_decode = [line for line in lines if line[1] == "decode"]
        kept = of_decode[:MOST_LINES]
        thinned = f" Thinned: decode alone, {len(kept)} of {len(of_decode)} runs."
        lines = kept
    spans = [(run, name, on, span) for run, name, on, spans in lines for span in spans]
    floor = _floor([span.mean for *_, span in spans])
    rows: list[Row] = []
    for run, name, on, span in spans:
        half = NORMAL_95 * span.se
        rows.append(
            {
                **run.fields,
                "series": f"{run.label} · {on}",
                "phase": name,
                "first": span.first,
                "last": span.last,
                "kld": span.mean,
                "kld_se": span.se,
                "position": (span.first + span.last) / 2,
                "y": max(span.mean, floor),
                "y_low": max(span.mean - half, floor),
                "y_high": max(span.mean + half, floor),
            }
        )
    others = any(on != f"{name}{first}" for _, name, on, _ in judged)
    of_one = f" On one text: {first.removeprefix(', ') or OWN_TEXT}." if others else ""
    zero = " 0 is drawn at the lower edge." if any(row["kld"] == 0 for row in rows) else ""
    return Plot(
        kind="positions",
        title="KLD over position",
        caption="Each point: the tokens at some positions of all windows. Solid: prefill; dashed: "
        f"decode. Bars: 95 % intervals.{of_one}{zero}{thinned}",
        columns={
            "series": "run",
            "first": "positions from",
            "last": "to",
            "kld": "KLD, nats",
            "kld_se": "SE",
        },
        rows=rows,
        most_rows=len(rows),
    )
