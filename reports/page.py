"""`llx report`: one page of HTML that needs nothing beside itself, not even a network.

What results say is untrusted. Control characters and those that turn the direction of writing are
replaced before anything else; the template escapes all; a policy in the page lets no script run but
those that were written with it, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llx.errors import require_modules
from llx.files import write_whole
from llx.reports.charts import specification, vega_script
from llx.reports.history import Entry
from llx.reports.markdown import ENERGY, TIMED_REGION, protocol_sentence
from llx.reports.notes import ceiling_words, explanations, row_notes
from llx.reports.plain import visible
from llx.reports.plots import (
    Plot,
    Run,
    colours_of,
    headline,
    history_plots,
    plots_of,
    runs_of,
    test_name,
)
from llx.reports.units import binary_bytes, parameters, plus_minus, significant
from llx.result import FIDELITY, Result, SpeedRow, Times

PAGE = "index.html"
TEMPLATES = Path(__file__).parent / "templates"
SHAPES = "●■▲◆▼✚"  # as the plots have them, by the order of precisions
NAMED_AT_MOST = 4  # runs that share a remark


Shown = TypeVar("Shown", Result, Entry)


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


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something to know before any number: a word that sums it up, of whom, and what."""

    kind: str  # bad, warn, good, plain
    word: str
    who: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's part of the page."""

    name: str
    facts: str
    runs: list[Run]
    engines: dict[str, int]  # and their colours
    precisions: dict[str, str]  # and their shapes, where there are several
    table: Table
    tests: Table
    notes: list[str]
    plots: list[tuple[str, Plot, Table]]


def write_page(results: Sequence[Result], folder: Path, history: Sequence[Entry] = ()) -> Path:
    """Write index.html into a folder, and return its path.

    Raises `Lacking` where the packages that draw the plots are not installed.
    """
    require_modules("the page (index.html)", "report", "altair", "vl_convert")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    write_whole(path, page_html(results, history).encode())
    return path


def page_html(results: Sequence[Result], history: Sequence[Entry] = ()) -> str:
    """The page as text. `history`: what earlier runs measured, of which the course is drawn."""
    results = [_shown(result) for result in results]
    models, course = _models(results), _course([_shown(entry) for entry in history])
    drawn = [*course, *(plot for model in models for plot in model.plots)]
    specs = {name: specification(plot) for name, plot, _ in drawn}
    scripts = [TEMPLATES.joinpath("page.js").read_text()]
    if specs:
        scripts.insert(0, _script_text(vega_script()))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html").render(
        title=_title(results),
        facts=_facts(results),
        commands=list(dict.fromkeys(result.command for result in results)),
        kind=_kind(remarks := list(_remarks(models))),
        summary=_summary(results),
        remarks=remarks,
        models=models,
        course=course,
        conditions=list(_conditions(results)),
        specs=specs,
        style=TEMPLATES.joinpath("page.css").read_text(),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
    )


def _shown(result: Shown) -> Shown:
    """A result or an entry whose texts show what they hold, and hold nothing that moves others."""

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return "\n".join(map(visible, value.split("\n")))
        if isinstance(value, dict):
            return {shown(key): shown(item) for key, item in value.items()}
        if isinstance(value, list) and value and not isinstance(value[0], int | float):
            return [shown(item) for item in value]
        return value

    return msgspec.convert(shown(msgspec.to_builtins(result)), type(result))


def _script_text(script: str) -> str:
    """A library's script as it may stand in a page: nothing in it ends or opens an element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _title(results: Sequence[Result]) -> str:
    models = ", ".join(dict.fromkeys(map(_model_name, results)))
    return f"{models} on {', '.join(dict.fromkeys(result.engine for result in results))}"


def _model_name(result: Result) -> str:
    """An artifact's name without its precision, which tells the rows of one table apart."""
    return result.artifact.name.removesuffix(f"-{result.precision}")


def _models(results: Sequence[Result]) -> list[Model]:
    colours = colours_of([result.engine for result in results])
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_model_name(result), []).append(result)
    models = []
    for i, (name, group) in enumerate(groups.items()):
        runs = runs_of(group, colours)
        engines = dict.fromkeys(result.engine for result in group)
        precisions = dict.fromkeys(result.precision for result in group)
        models.append(
            Model(
                name=name,
                facts=" · ".join(
                    dict.fromkeys(parameters(result.artifact.params) for result in group)
                )
                + " parameters",
                runs=runs,
                engines={engine: colours[engine] for engine in engines},
                precisions=dict(zip(precisions, SHAPES, strict=False))
                if len(precisions) > 1
                else {},
                table=_filled(_overview(f"model-{i}", runs)),
                tests=_filled(_tests(f"tests-{i}", runs)),
                notes=list(_notes(runs)),
                plots=[
                    (f"plot-{i}-{plot.kind}", plot, _plot_table(f"data-{i}-{plot.kind}", plot))
                    for plot in plots_of(runs)
                ],
            )
        )
    return models


def _course(history: Sequence[Entry]) -> list[tuple[str, Plot, Table]]:
    """The plots over time, and their tables."""
    plots = history_plots(history, colours_of([entry.engine for entry in history]))
    named = [(f"course-{i}", plot) for i, plot in enumerate(plots)]
    return [(name, plot, _plot_table(f"{name}-data", plot)) for name, plot in named]


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
    if not row.valid:
        return Cell(text="INVALID", small=test_name(row), hint=row.invalid_reason or "", kind="bad")
    alone = len(row.samples) == 1
    text = significant(row.mean) if alone else plus_minus(row.mean, row.sd)
    low, high = map(significant, row.ci95)
    return _number(row.mean, text, test_name(row), f"95 % interval {low} … {high} tok/s")


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


def _overview(name: str, runs: Sequence[Run]) -> Table:
    """One row for each engine and precision."""
    headings = (
        *("engine", "precision", "valid", "run", "device", "prefill tok/s", "decode tok/s"),
        *("TTFT ms", "TPOT ms", "peak memory", "size", "energy mJ/tok", "PPL ratio"),
        *("KLD prefill", "KLD decode", "same top-1", "roofline"),
    )
    devices = {run.result.environment.device for run in runs}
    several = any(run.number > 1 for run in runs)
    rows = []
    for run in runs:
        result, fidelity = run.result, run.result.fidelity
        prefill, decode, request = (
            headline(result, kind) for kind in ("prefill", "decode", "request")
        )
        ttft, tpot = prefill or request, decode or request
        memory = result.memory
        energy = decode.energy if decode and decode.energy else result.energy
        shares = (_share(decode), _share(prefill))
        rows.append(
            [
                Cell(text=result.engine, colour=run.colour),
                _text(result.precision),
                _standing(result),
                Cell(text=_part(run), small=_minute(result.created)) if several else _text(""),
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
                _estimate(
                    fidelity.ppl_ratio.value,
                    fidelity.ppl_ratio.se,
                    f"PPL {plus_minus(fidelity.ppl, fidelity.ppl_se)}",
                )
                if fidelity
                else Cell(text=""),
                *(
                    _estimate(
                        phase.kld.mean,
                        phase.kld.se,
                        f"p99 {phase.kld.p99:.1e}, max {phase.kld.max:.1e} nats",
                    )
                    for phase in ((fidelity.prefill, fidelity.decode) if fidelity else ())
                ),
                *([] if fidelity else [Cell(text=""), Cell(text="")]),
                _number(
                    fidelity.same_top1.value,
                    f"{100 * fidelity.same_top1.value:.2f} %",
                    f"± {100 * fidelity.same_top1.se:.2f} %",
                )
                if fidelity
                else Cell(text=""),
                _number(decode.roofline_probe, shares[0], f"prefill {shares[1]}" * bool(shares[1]))
                if decode and shares[0]
                else _number(prefill.roofline_probe if prefill else None, shares[1], "prefill")
                if shares[1]
                else Cell(text=""),
            ]
        )
    return Table(name=name, headings=list(headings), numbers=set(range(5, 17)), rows=rows)


def _part(run: Run) -> str:
    """A run's number, and its part where it took turns with another."""
    part = "candidate" if run.result.against else "baseline" if run.result.turns else ""
    return f"#{run.number} {part}".strip()


def _minute(created: str) -> str:
    return created[:16].replace("T", " ")


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


def _tests(name: str, runs: Sequence[Run]) -> Table:
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
            _number(row.mean if row.valid else None, plus_minus(row.mean, row.sd)),
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
    return Table(name=name, headings=list(headings), numbers=set(range(2, 14)), rows=rows)


def _filled(table: Table) -> Table:
    """A table without the columns that say nothing in any row."""
    kept = [i for i in range(len(table.headings)) if any(row[i].text for row in table.rows)]
    return Table(
        name=table.name,
        headings=[table.headings[i] for i in kept],
        numbers={place for place, i in enumerate(kept) if i in table.numbers},
        rows=[[row[i] for i in kept] for row in table.rows],
    )


def _plot_table(name: str, plot: Plot) -> Table:
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


def _remarks(models: Sequence[Model]) -> Iterator[Remark]:
    """What was found wrong, what changed, and what is doubtful: the worst first, each once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for model in models:
        for run in model.runs:
            prefix = f"{model.name}, " if len(models) > 1 else ""
            for kind, word, test, text in _said(run.result):
                of = f"{prefix}{run.label}" + (f", {test}" if test else "")
                found.setdefault((kind, word, text), []).append(of)
    order = ("bad", "warn", "good", "plain")
    for (kind, word, text), who in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        yield Remark(kind=kind, word=word, who=_named(who), text=text)


def _said(result: Result) -> Iterator[tuple[str, str, str, str]]:
    """Of one result: kind, word, test, text."""
    for row in result.speed:
        if not row.valid:
            yield "bad", "INVALID", test_name(row), row.invalid_reason or ""
    if result.error:
        yield "bad", "NO NUMBERS", "", f"{result.error.message}: {result.error.remedy}"
    for failed in result.failed:
        yield "bad", "FAILED", failed.test, f"{failed.error.message}: {failed.error.remedy}"
    yield from _compared(result)
    if result.interrupted:
        yield "warn", "INTERRUPTED", "", "some of what was asked for is missing"
    for note in result.environment.notes:
        yield "warn", "DOUBTFUL", "", note
    if result.unjudged and not any(failed.test == FIDELITY for failed in result.failed):
        yield "plain", "NOT JUDGED", "", result.unjudged


def _named(runs: Sequence[str]) -> str:
    more = len(runs) - NAMED_AT_MOST
    return "; ".join(runs[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _compared(result: Result) -> Iterator[tuple[str, str, str, str]]:
    """The verdicts on a candidate."""
    against = result.against
    kinds = {"slower": "bad", "faster": "good", "no change": "plain", "inconclusive": "warn"}
    for test in against.tests if against else ():
        assert against is not None
        low, high = (significant(end, 3) for end in test.ci95)
        yield (
            kinds[test.verdict],
            test.verdict.upper(),
            f"{test.test}{f' × {test.batch}' if test.batch > 1 else ''}",
            f"{significant(test.ratio, 3)} × the speed of {against.engine}, {against.artifact}; "
            f"95 % interval {low} … {high}, noise {significant(100 * test.noise, 2)} %, "
            f"threshold {significant(100 * against.threshold, 2)} %",
        )


def _kind(remarks: Sequence[Remark]) -> str:
    kinds = {remark.kind for remark in remarks}
    return "bad" if "bad" in kinds else "warn" if "warn" in kinds else "good"


def _summary(results: Sequence[Result]) -> str:
    """The verdict in a line."""
    rows = [row for result in results for row in result.speed]
    invalid = sum(not row.valid for row in rows)
    said = []
    if rows:
        whole = "The only row is valid" if len(rows) == 1 else f"All {len(rows)} rows are valid"
        are = "is" if invalid == 1 else "are"
        said.append(f"{invalid} of {len(rows)} rows {are} INVALID" if invalid else whole)
    without = list(dict.fromkeys(result.engine for result in results if result.error))
    if without:
        said.append(f"no numbers from {', '.join(without)}")
    failed = sum(len(result.failed) for result in results)
    if failed:
        said.append(f"{failed} failed")
    verdicts = [test.verdict for r in results if r.against for test in r.against.tests]
    said += [
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("slower", "faster", "no change", "inconclusive")
        if verdict in verdicts
    ]
    return "; ".join(said) + "." if said else "There are no rows."


def _facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What was run and where."""
    environments = [result.environment for result in results]
    created = sorted(result.created for result in results)
    days = list(dict.fromkeys(map(_minute, (created[0], created[-1]))))
    versions: dict[str, list[str]] = {"llx": [result.llx for result in results]}
    for environment in environments:
        versions.setdefault("Python", []).append(environment.python)
        for name, version in environment.versions.items():
            versions.setdefault(name, []).append(version)
    facts = {
        "Device": "; ".join(dict.fromkeys(e.device for e in environments)),
        "When": " to ".join(days),
        "System": "; ".join(dict.fromkeys(e.os for e in environments)),
        "Threads": ", ".join(dict.fromkeys(str(e.threads) for e in environments if e.threads)),
        "Clocks": "; ".join(dict.fromkeys(e.clocks for e in environments)),
        "Power mode": "; ".join(dict.fromkeys(e.power_mode for e in environments)),
        "Versions": ", ".join(
            f"{name} {' / '.join(dict.fromkeys(found))}" for name, found in versions.items()
        ),
    }
    return [(name, fact) for name, fact in facts.items() if fact]


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    """What a model's tables leave open."""
    rows = [row for run in runs for row in run.result.speed if row.energy]
    reasons = dict.fromkeys(
        row.energy.reason for row in rows if row.energy and row.energy.joules is None
    )
    if reasons:
        yield f"Energy not measured: {'; '.join(reason for reason in reasons if reason)}."
    if any(row.energy and row.energy.joules is not None for row in rows):
        yield ENERGY
    ceilings: dict[str, list[str]] = {}
    for run in runs:
        if run.result.ceiling:
            words = " and ".join(ceiling_words(run.result.ceiling))
            ceilings.setdefault(words, []).append(run.label)
    for words, labels in ceilings.items():
        yield f"Roofline of {_named(labels)}: {words}."
    yield from dict.fromkeys(
        f"{run.result.precision}: {run.result.artifact.quantization}."
        for run in runs
        if run.result.artifact.quantization
    )


def _conditions(results: Sequence[Result]) -> Iterator[str]:
    """How it was measured."""
    rows = [row for result in results for row in result.speed]
    if rows:
        yield TIMED_REGION.replace("`", "")
        counts = sorted({len(row.samples) for row in rows})
        warmups = sorted({row.warmup for row in rows if row.warmup is not None})
        methods = dict.fromkeys(row.ci_method for row in rows if row.ci_method)
        yield (
            f"Repetitions: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}"
            + (f", after {', '.join(map(str, warmups))} to warm up" if warmups else "")
            + (f"; CI95: {'; '.join(methods)}" if methods else "")
            + "."
        )
    yield from explanations(results)
    yield from dict.fromkeys(
        protocol_sentence(result.fidelity).replace("`", "") for result in results if result.fidelity
    )
