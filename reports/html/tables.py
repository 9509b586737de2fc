"""The tables of the page: of runs, of tests, of a plot's data; cells say what sorts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llx.reports.compare.change import Change
from llx.reports.compare.changes import amount, why_of
from llx.reports.compare.courses import Step
from llx.reports.compare.pairs import WORST_FIRST, Setting
from llx.reports.html.plots import Plot
from llx.reports.html.runs import Run, headline
from llx.reports.notes import OWN_TEXT, model_name, row_notes, shown_test, speed_cell, speed_words
from llx.reports.scores import score_lines, score_words
from llx.reports.steps import HEADINGS, step_rows
from llx.reports.units import binary_bytes, minute, plus_minus, significant
from llx.result import Fidelity, Result, SpeedRow, Times
from llx.scores import Metric


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table: what is read, what it is sorted by, and what stands small below it."""

    text: str
    sort: float | None = None
    small: str = ""
    hint: str = ""
    kind: str = ""  # bad, good, note
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headings and rows; the columns named in `numbers` are aligned to the right."""

    name: str
    headings: list[str]
    numbers: set[int]
    rows: list[list[Cell]]


def _text(text: str) -> Cell:
    return Cell(text=text)


def _number(value: float | None, text: str | None = None, small: str = "", hint: str = "") -> Cell:
    """A number, sorted by its value; nothing where there is none."""
    if value is None:
        return Cell(text="")
    return Cell(
        text=significant(value) if text is None else text, sort=value, small=small, hint=hint
    )


def _rate(row: SpeedRow | None) -> Cell:
    """A speed with its standard deviation and its test; the reason where it is none."""
    if row is None:
        return Cell(text="")
    test = shown_test(row.test, row.batch)
    if not row.valid:
        return Cell(text=speed_cell(row), small=test, hint=row.invalid_reason or "", kind="bad")
    low, high = map(significant, row.ci95)
    return _number(row.speed, speed_cell(row), test, f"95 % interval {low} … {high} tok/s")


def _estimate(value: float, error: float, hint: str) -> Cell:
    """A value, and its standard error below it."""
    told, _, uncertain = plus_minus(value, error).partition(" ± ")
    if abs(value) > 1e-2 and 0 < error < 1e-5:
        told, uncertain = f"{value:.6f}", f"{error:.0e}"
    return _number(value, told, f"± {uncertain}", hint)


def _time(times: Times | None) -> Cell:
    if times is None:
        return Cell(text="")
    hint = f"p50 {significant(times.p50)}, p95 {significant(times.p95)} ms"
    return _number(times.mean, significant(times.mean), hint=hint)


def _share(row: SpeedRow | None) -> str:
    known = row is not None and row.valid and row.roofline_probe is not None
    return f"{100 * (row.roofline_probe or 0):.0f} %" if row and known else ""


def overview(name: str, runs: Sequence[Run]) -> Table:
    """One row for each engine and precision."""
    headings = (
        *("engine", "precision", "valid", "run", "device", "prefill tok/s", "decode tok/s"),
        *("TTFT ms", "TPOT ms", "peak memory", "size", "energy mJ/tok", "PPL ratio"),
        *("KLD prefill", "KLD decode", "same top-1", "roofline"),
    )
    devices = {run.result.environment.device for run in runs}
    several = any(run.part for run in runs)
    rows = []
    for run in runs:
        result, fidelity = run.result, run.result.fidelity
        prefill, decode, request = (
            headline(result, kind) for kind in ("prefill", "decode", "request")
        )
        ttft, tpot = prefill or request, decode or request
        memory = result.memory
        energy = decode.energy if decode and decode.energy else result.energy
        rows.append(
            [
                Cell(text=result.engine, colour=run.colour),
                _text(result.precision),
                _standing(result),
                Cell(text=run.part or "#1", small=minute(result.created)) if several else _text(""),
                Cell(text=result.environment.device if len(devices) > 1 else ""),
                _rate(prefill),
                _rate(decode or request),
                _time(ttft.ttft_ms if ttft and ttft.valid else None),
                _time(tpot.tpot_ms if tpot and tpot.valid else None),
                _peak(result),
                _number(result.artifact.bytes, binary_bytes(result.artifact.bytes))
                if memory or fidelity
                else Cell(text=""),
                _number(
                    energy.mj_per_token if energy else None, hint=(energy and energy.rail) or ""
                ),
                *_fidelity(fidelity),
                _roofline(prefill, decode),
            ]
        )
    return Table(name=name, headings=list(headings), numbers=set(range(5, 17)), rows=rows)


def texts_table(name: str, runs: Sequence[Run]) -> Table:
    """What runs were judged on, where any of it is a user's text."""
    headings = ("run", "text", "tokens", "PPL", "PPL ratio", "KLD prefill", "KLD decode")
    judged = [(run, text, one) for run in runs for text, one in run.result.judged().items()]
    rows = [
        [
            Cell(text=run.label, colour=run.colour),
            _text(text or OWN_TEXT),
            _number(one.tokens),
            _estimate(one.ppl, one.ppl_se, f"PyTorch fp32 {significant(one.ppl_reference)}"),
            *_fidelity(one),
        ]
        for run, text, one in judged
    ]
    shown = rows if any(text for _, text, _ in judged) else []
    numbers = set(range(2, len(headings) + 1))
    return Table(name=name, headings=[*headings, "same top-1"], numbers=numbers, rows=shown)


def scores_table(name: str, runs: Sequence[Run]) -> Table:
    """What tasks scored: a line for each metric, a column for each run."""
    scored = [run for run in runs if run.result.scores]
    rows = [
        [
            _text(line.task),
            _text(line.metric),
            _text(line.documents),
            _text(line.shots),
            *map(_score, line.scores),
        ]
        for line in score_lines([run.result for run in scored])
    ]
    headings = ["task", "metric", "documents", "shots", *(run.label for run in scored)]
    return Table(name=name, headings=headings, numbers=set(range(2, len(headings))), rows=rows)


def _score(metric: Metric | None) -> Cell:
    """A score, and its standard error below it."""
    told, sign, error = score_words(metric).partition(" ± ")
    return _number(metric.value if metric else None, told, f"± {error}" if sign else "")


def _fidelity(fidelity: Fidelity | None) -> list[Cell]:
    """PPL ratio, KLD of prefill and of decode, same top-1."""
    if fidelity is None:
        return [Cell(text="")] * 4
    ratio, same = fidelity.ppl_ratio, fidelity.same_top1
    klds = (
        _estimate(kld.mean, kld.se, f"p99 {kld.p99:.1e}, max {kld.max:.1e} nats")
        for kld in (fidelity.prefill.kld, fidelity.decode.kld)
    )
    return [
        _estimate(ratio.value, ratio.se, f"PPL {plus_minus(fidelity.ppl, fidelity.ppl_se)}"),
        *klds,
        _number(same.value, f"{100 * same.value:.2f} %", f"± {100 * same.se:.2f} %"),
    ]


def _roofline(prefill: SpeedRow | None, decode: SpeedRow | None) -> Cell:
    """The share of decode, with that of prefill below it; or that of prefill alone."""
    of_prefill, of_decode = _share(prefill), _share(decode)
    if decode and of_decode:
        small = f"prefill {of_prefill}" if of_prefill else ""
        return _number(decode.roofline_probe, of_decode, small)
    if prefill and of_prefill:
        return _number(prefill.roofline_probe, of_prefill, "prefill")
    return Cell(text="")


def _peak(result: Result) -> Cell:
    memory = result.memory
    if memory is None or memory.peak_host_bytes is None:
        return Cell(text="")
    device = memory.peak_device_bytes
    on_gpu = f"GPU {binary_bytes(device)}" if device is not None else ""
    return _number(memory.peak_host_bytes, binary_bytes(memory.peak_host_bytes), on_gpu)


def _standing(result: Result) -> Cell:
    """Whether a result's numbers may be believed."""
    if result.error:
        return Cell(text="no numbers", kind="bad", hint=result.error.message)
    invalid = sum(not row.valid for row in result.speed)
    if invalid:
        return Cell(text=f"{invalid} of {len(result.speed)} INVALID", kind="bad")
    if result.failed:
        return Cell(text=f"{len(result.failed)} failed", kind="bad")
    return Cell(text="valid" if result.speed else "", kind="good")


def tests_table(name: str, runs: Sequence[Run]) -> Table:
    """Every test of every run."""
    headings = (
        *("run", "test", "batch", "depth", "tok/s", "CI95 from", "to", "TTFT ms", "TPOT ms"),
        *("ITL p50 ms", "ITL p99 ms", "E2E ms", "roofline", "energy mJ/tok", "valid", "notes"),
    )
    rows = [
        [
            Cell(text=run.label, colour=run.colour),
            _text(row.test),
            _number(row.batch),
            _number(row.depth),
            _number(row.speed, speed_words(row)),
            *(_number(end if row.valid else None) for end in row.ci95),
            _time(row.ttft_ms if row.valid else None),
            _time(row.tpot_ms if row.valid else None),
            _number(row.itl_ms.p50 if row.itl_ms and row.valid else None),
            _number(row.itl_ms.p99 if row.itl_ms and row.valid else None),
            _time(row.e2e_ms if row.valid else None),
            _number(row.roofline_probe, _share(row)) if _share(row) else Cell(text=""),
            _number(row.energy.mj_per_token if row.energy and row.valid else None),
            Cell(text="valid", kind="good") if row.valid else Cell(text="INVALID", kind="bad"),
            Cell(
                text="; ".join(
                    [*([] if row.valid else [row.invalid_reason or ""]), *row_notes(row)]
                ),
                kind="note",
            ),
        ]
        for run in runs
        for row in run.result.speed
    ]
    rows += [
        [
            Cell(text=run.label, colour=run.colour),
            _text(failed.test),
            *([_text("")] * (len(headings) - 4)),
            Cell(text="FAILED", kind="bad"),
            Cell(text=f"{failed.error.message}: {failed.error.remedy}", kind="note"),
        ]
        for run in runs
        for failed in run.result.failed
    ]
    return Table(name=name, headings=list(headings), numbers=set(range(2, 14)), rows=rows)


KINDS = {
    "regressed": "bad",
    "inconclusive": "warn",
    "not comparable": "plain",
    "improved": "good",
    "no change": "plain",
}


def changes_table(name: str, changes: Sequence[Change], colours: dict[str, int]) -> Table:
    """Every measure against the baseline."""
    headings = (
        *("verdict", "engine", "precision", "model", "measure", "baseline", "this", "ratio"),
        *("CI95 from", "to", "kind", "why"),
    )
    models = [model_name(change.artifact, change.precision) for change in changes]
    several = len({*models}) > 1
    rows = [
        [
            Cell(
                text=change.verdict,
                sort=WORST_FIRST.index(change.verdict),
                kind=KINDS[change.verdict],
            ),
            Cell(text=change.engine, colour=colours[change.engine]),
            _text(change.precision),
            _text(model if several else ""),
            _text(change.metric),
            _number(change.before, amount(change.before, change.unit)),
            _number(change.after, amount(change.after, change.unit)),
            _number(change.ratio, None if change.ratio is None else significant(change.ratio, 3)),
            *(
                _number(end, None if end is None else significant(end, 3))
                for end in change.ci95 or (None, None)
            ),
            Cell(text=change.kind, kind="soft"),
            Cell(text=why_of(change), kind="note"),
        ]
        for change, model in zip(changes, models, strict=True)
    ]
    return Table(name=name, headings=list(headings), numbers=set(range(5, 10)), rows=rows)


def settings_table(name: str, settings: Sequence[Setting]) -> Table:
    """What was not the same beside the numbers."""
    rows = [[_text(one.name), _text(one.before), _text(one.after)] for one in settings]
    return Table(name=name, headings=["setting", "baseline", "this"], numbers=set(), rows=rows)


def steps_table(name: str, steps: Sequence[Step], colours: dict[str, int]) -> Table:
    """Where measures of the history went to another level, the latest first."""
    rows = []
    for step, cells in zip(reversed(steps), step_rows(steps), strict=True):
        said, run, measure, moved, ratio, since = cells
        rows.append(
            [
                Cell(text=said, kind="bad" if step.worse else "good"),
                Cell(text=run, colour=colours[step.course.series.engine]),
                _text(measure),
                _text(moved),
                _number(step.ratio, ratio),
                Cell(text=since, hint=f"{step.at.label}, after {step.after.label}".strip(", ")),
            ]
        )
    return Table(name=name, headings=list(HEADINGS), numbers={4}, rows=rows)


def filled(table: Table) -> Table:
    """A table without the columns that say nothing in any row."""
    kept = [i for i in range(len(table.headings)) if any(row[i].text for row in table.rows)]
    return Table(
        name=table.name,
        headings=[table.headings[i] for i in kept],
        numbers={place for place, i in enumerate(kept) if i in table.numbers},
        rows=[[row[i] for i in kept] for row in table.rows],
    )


def plot_table(name: str, plot: Plot) -> Table:
    """A plot's data as a table."""
    rows, numbers = [], set()
    for row in plot.rows:
        cells = []
        for place, field in enumerate(plot.columns):
            value = row[field]
            if isinstance(value, bool):
                cells.append(_text("yes" if value else ""))
            elif isinstance(value, int | float):
                numbers.add(place)
                cells.append(_number(value))
            else:
                cells.append(_text(value or ""))
        rows.append(cells)
    return Table(name=name, headings=list(plot.columns.values()), numbers=numbers, rows=rows)
