"""`llx report`: one page of HTML that needs nothing beside itself, not even a network.

What results say is untrusted. Control characters and those that turn the direction of writing are
replaced before anything else; `shell` does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from llx.errors import require_modules
from llx.files import make_folder, write_whole
from llx.reports.compare.courses import Course, courses_of, followed_steps
from llx.reports.compare.gates import GATES, Gate
from llx.reports.compare.pairs import Compared, judged_by, sides
from llx.reports.compare.past import Past
from llx.reports.history import Entry
from llx.reports.html.charts import specification
from llx.reports.html.plots import Plot, changes_plot, history_plots, plots_of
from llx.reports.html.remarks import named, remarks_on, summary, worst_kind
from llx.reports.html.runs import Looks, Run, runs_of
from llx.reports.html.shell import rendered
from llx.reports.html.tables import (
    Table,
    changes_table,
    filled,
    overview,
    plot_table,
    scores_table,
    settings_table,
    steps_table,
    tests_table,
    texts_table,
)
from llx.reports.markdown import ENERGY, TIMED_REGION, protocol_sentence, repetitions_sentence
from llx.reports.notes import arithmetic_words, ceiling_words, explanations, model_name
from llx.reports.plain import visible
from llx.reports.units import minute, parameters
from llx.result import Result

PAGE = "index.html"
GLYPHS = "●■▲◆▼✚"  # of the shapes, as the plots have them


Shown = TypeVar("Shown", Result, Entry)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's part of the page."""

    name: str
    facts: str
    runs: list[Run]
    engines: dict[str, int]  # and their colours
    precisions: dict[str, str]  # and their shapes, where there are several
    table: Table
    texts: Table
    scores: Table
    tests: Table
    notes: list[str]
    plots: list[tuple[str, Plot, Table]]


@dataclass(frozen=True, kw_only=True)
class BesideBaseline:
    """The part of the page that is about the baseline, or the history."""

    title: str

    changes: Table
    settings: Table
    notes: list[str]
    plot: tuple[str, Plot, Table] | None


def write_page(
    results: Sequence[Result],
    folder: Path,
    *,
    baseline: Sequence[Result] = (),
    history: Sequence[Entry] = (),
    past: Sequence[Entry] = (),
    gates: Sequence[Gate] = GATES,
) -> Path:
    """Write index.html into a folder, and return its path.

    `results` are compared with the baseline's by the gates, those that can be; `history` is what
    runs measured, of which the course is drawn, and `past` that part of it by which these results
    are judged.

    Raises `Lacking` where the packages that draw the plots are not installed.
    """
    require_modules("the page (index.html)", "report", "altair", "vl_convert")
    make_folder(folder)
    path = folder / PAGE
    page = page_html(results, baseline=baseline, history=history, past=past, gates=gates)
    write_whole(path, page.encode())
    return path


def page_html(
    results: Sequence[Result],
    *,
    baseline: Sequence[Result] = (),
    history: Sequence[Entry] = (),
    past: Sequence[Entry] = (),
    gates: Sequence[Gate] = GATES,
) -> str:
    """The page as text; see `write_page`."""
    shown, other = ([_shown(one) for one in side] for side in (results, baseline))
    judged, before = sides(shown, other)
    earlier = Past([_shown(entry) for entry in past]) if past else None
    compared = judged_by(shown, other, gates, earlier)
    pairs = compared.pairs if compared else []
    results = _in_pairs(judged, before, pairs)
    entries = [_shown(entry) for entry in history]
    everything: list[Result | Entry] = [*results, *entries]
    looks = Looks.of([one.engine for one in everything], [one.precision for one in everything])
    courses = courses_of(entries)
    models, course = _models(results, looks, pairs), _course(courses, looks)
    against = _against(compared, looks) if compared else None
    remarks = remarks_on([(model.name, model.runs) for model in models], compared)
    drawn = [*course, *(plot for model in models for plot in model.plots)]
    if against and against.plot:
        drawn.append(against.plot)
    specs = {name: specification(plot) for name, plot, _ in drawn}
    return rendered(
        "page.html",
        "report",
        specs,
        title=_title(results),
        facts=_facts(results),
        commands=list(dict.fromkeys(result.command for result in results)),
        kind=worst_kind(remarks),
        summary=summary(results, compared),
        against=against,
        remarks=remarks,
        models=models,
        course=course,
        steps=filled(steps_table("steps", followed_steps(courses), looks.colours)),
        conditions=list(_conditions(results)),
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


def _title(results: Sequence[Result]) -> str:
    names = (model_name(result.artifact.name, result.precision) for result in results)
    models = ", ".join(dict.fromkeys(names))
    return f"{models} on {', '.join(dict.fromkeys(result.engine for result in results))}"


def _in_pairs(
    judged: Sequence[Result], before: Sequence[Result], pairs: Sequence[tuple[Result, Result]]
) -> list[Result]:
    """All results, a baseline's before that which it is compared with."""
    found = []
    for one in judged:
        found += [earlier for earlier, later in pairs if later is one]
        found.append(one)
    return found + [one for one in before if not any(one is other for other in found)]


def _against(compared: Compared, looks: Looks) -> BesideBaseline:
    changes = filled(changes_table("changes", compared.changes, looks.colours))
    plot = changes_plot(compared.changes, looks)
    return BesideBaseline(
        title="Against the baseline" if compared.pairs else "Against the history",
        changes=changes,
        settings=settings_table("settings", compared.settings),
        notes=compared.notes,
        plot=("plot-against", plot, plot_table("data-against", plot)) if plot.rows else None,
    )


def _models(
    results: Sequence[Result], looks: Looks, pairs: Sequence[tuple[Result, Result]]
) -> list[Model]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(model_name(result.artifact.name, result.precision), []).append(result)
    models = []
    for i, (name, group) in enumerate(groups.items()):
        runs = runs_of(group, looks, pairs)
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
                engines={engine: looks.colours[engine] for engine in engines},
                precisions={one: GLYPHS[looks.shapes[one]] for one in precisions}
                if len(precisions) > 1
                else {},
                table=filled(overview(f"model-{i}", runs)),
                texts=filled(texts_table(f"texts-{i}", runs)),
                scores=filled(scores_table(f"scores-{i}", runs)),
                tests=filled(tests_table(f"tests-{i}", runs)),
                notes=list(_notes(runs)),
                plots=[
                    (f"plot-{i}-{plot.kind}", plot, plot_table(f"data-{i}-{plot.kind}", plot))
                    for plot in plots_of(runs)
                ],
            )
        )
    return models


def _course(courses: Sequence[Course], looks: Looks) -> list[tuple[str, Plot, Table]]:
    """The plots over time, and their tables."""
    named = [(f"course-{i}", plot) for i, plot in enumerate(history_plots(courses, looks))]
    return [(name, plot, plot_table(f"{name}-data", plot)) for name, plot in named]


def _facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What was run and where."""
    environments = [result.environment for result in results]
    created = sorted(result.created for result in results)
    first, last = minute(created[0]), minute(created[-1])
    if first[:10] == last[:10]:
        last = last[11:] if first != last else ""
    versions: dict[str, list[str]] = {"llx": [result.llx for result in results]}
    for environment in environments:
        versions.setdefault("Python", []).append(environment.python)
        for name, version in environment.versions.items():
            versions.setdefault(name, []).append(version)
    facts = {
        "Device": "; ".join(dict.fromkeys(e.device for e in environments)),
        "When": " to ".join(filter(None, (first, last))),
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
        yield f"Roofline of {named(labels)}: {words}."
    yield from dict.fromkeys(
        f"{run.result.precision}: {run.result.artifact.quantization}."
        for run in runs
        if run.result.artifact.quantization
    )
    for run in runs:
        if arithmetic := arithmetic_words(run.result):
            yield f"{run.label} multiplied {arithmetic}."


def _conditions(results: Sequence[Result]) -> Iterator[str]:
    """How it was measured."""
    if any(result.speed for result in results):
        yield TIMED_REGION.replace("`", "")
        yield repetitions_sentence(results).replace("`", "")
    yield from explanations(results)
    yield from dict.fromkeys(
        protocol_sentence(one).replace("`", "")
        for result in results
        for one in result.judged().values()
    )
