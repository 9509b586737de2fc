"""What `llx compare` shows: the verdict first, then what changed, then what else was different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import msgspec
from rich.table import Table

from llx.errors import BadInput
from llx.reports.compare.change import Change
from llx.reports.compare.gates import GATES, Kind, gate_for
from llx.reports.compare.pairs import Compared
from llx.reports.compare.verdicts import measurable
from llx.reports.console import say, show, simple_table
from llx.reports.emitters import Case, Outcome, junit_of
from llx.reports.formats import csv_of
from llx.reports.markdown import markdown_table, safe
from llx.reports.measures import other_numbers
from llx.reports.plain import visible
from llx.reports.units import alike, binary_bytes, significant
from llx.result import Result

HEADINGS = ("verdict", "engine", "measure", "before → after", "ratio", "why")


def verdict_line(found: Compared) -> str:
    """The verdict in one line: what regressed, or that nothing did, and of how much."""
    counts = Counter(change.verdict for change in found.changes if not change.ungated)
    ungated = sum(change.ungated for change in found.changes)
    parts = [f"{count} {verdict}" for verdict, count in counts.items()]
    if ungated:
        parts.append(f"{ungated} worse, which no gate is about")
    said = ", ".join(parts)
    worse = found.regressed
    if not worse:
        return f"no regression: {said}"
    several = _several(found)
    names = ", ".join(f"{one.metric} on {_engine(one, several)}" for one in worse[:3])
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return f"REGRESSED: {names}{more}; {said}"


def _several(found: Compared) -> bool:
    """Whether an engine has several precisions, which its name alone does not tell apart."""
    of = {(change.engine, change.precision) for change in found.changes}
    return len(of) > len({engine for engine, _ in of})


def _engine(change: Change, several: bool) -> str:
    return f"{change.engine} {change.precision}" if several else change.engine


def changes_table(found: Compared) -> Table:
    """Every measure, the worst first."""
    rows, several = [], _several(found)
    for change in found.changes:
        *cells, ratio, why = _cells(change, several)
        rows.append((*cells, "; ".join(filter(None, (ratio, why)))))
    headings = ("verdict", "engine", "measure", "before → after", "ratio, why")
    return simple_table("", headings, rows)


def settings_table(found: Compared) -> Table:
    """What was not the same beside the numbers."""
    rows = [(one.name, one.before, one.after) for one in found.settings]
    return simple_table("", ("setting", "baseline", "this"), rows)


def changes_markdown(found: Compared) -> str:
    """For a pull request's comment: the verdict, what changed, what else was not the same."""
    open_ = any(change.verdict == "inconclusive" for change in found.changes)
    light = "🔴" if found.regressed else "🟡" if open_ or found.unjudged else "🟢"
    parts = [f"**⚠ {safe(line)}**" for line in found.unjudged]
    parts.append(f"**{light} {safe(verdict_line(found))}**")
    several = _several(found)
    changed = [change for change in found.changes if change.verdict != "no change"]
    if changed:
        parts.append(markdown_table(HEADINGS, (list(_cells(one, several)) for one in changed)))
    if found.settings:
        settings = ((one.name, one.before, one.after) for one in found.settings)
        parts.append(markdown_table(("setting", "baseline", "this"), settings))
    if found.notes:
        parts.append("\n".join(f"- {safe(line)}" for line in found.notes))
    return "\n\n".join(parts) + "\n"


def changes_json(found: Compared) -> str:
    """All of it, for programs (`llx.comparison/1`)."""
    compared = {
        "unjudged": found.unjudged,
        "changes": found.changes,
        "settings": found.settings,
        "notes": found.notes,
    }
    whole = {"schema": "llx.comparison/1", "regressed": bool(found.regressed), "compared": compared}
    return msgspec.json.encode(whole).decode() + "\n"


def changes_csv(found: Compared) -> str:
    """A line for every measure, with all that is known of it."""
    columns = [field.name for field in fields(Change) if field.name != "ci95"]
    rows = []
    for change in found.changes:
        low, high = change.ci95 or (None, None)
        rows.append([*(getattr(change, name) for name in columns), low, high])
    return csv_of([*columns, "ci95_low", "ci95_high"], rows)


def changes_junit(found: Compared) -> str:
    """JUnit XML: a suite for each engine and artifact, a case for each measure with its verdict.

    What a gate fails is a failure; what cannot be said or compared was skipped, and says why.
    """
    suites: dict[str, list[Case]] = {}
    for change in found.changes:
        of = f"{change.artifact} {change.engine}".strip()
        said = f"{change.verdict}: {moved(change)}, {ratio_of(change)}; {why_of(change)}"
        said = said.rstrip("; ,")
        outcome: Outcome = "failure" if change.fails else "passed"
        if change.verdict in ("inconclusive", "not comparable"):
            outcome = "skipped"
        suites.setdefault(of, []).append(Case(change.metric, outcome, said))
    if found.unjudged:
        suites["models"] = [Case("the model", "skipped", line) for line in found.unjudged]
    return junit_of(suites.items())


def changes_annotations(found: Compared) -> str:
    """Workflow commands of GitHub Actions: an error for each measure that fails, then the verdict.

    What results say is text: a colon in it would be another property, a line break a command.
    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
    """
    several = _several(found)
    lines = [("warning", "the model", words) for words in found.unjudged]
    for change in found.regressed:
        title = f"{change.metric} regressed on {_engine(change, several)}"
        said = filter(None, (moved(change), ratio_of(change), why_of(change)))
        lines.append(("error", title, "; ".join(said)))
    lines.append(("notice", "llx compare", verdict_line(found)))
    return "".join(
        f"::{level} title={_property(title)}::{_message(said)}\n" for level, title, said in lines
    )


def _message(text: str) -> str:
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _cells(change: Change, several: bool) -> Iterator[str]:
    yield change.verdict
    yield _engine(change, several)
    yield change.metric
    yield moved(change)
    yield ratio_of(change)
    yield why_of(change)


def why_of(change: Change) -> str:
    """What a verdict rests on, and whether it fails nothing."""
    return "; ".join(filter(None, ("no gate" if change.ungated else "", change.why)))


def amount(value: float | None, unit: str) -> str:
    """A number of a change with its unit."""
    if value is None:
        return "none"
    return binary_bytes(value) if unit == "B" else f"{significant(value)} {unit}".rstrip()


def moved(change: Change) -> str:
    """A number before and after."""
    return moved_words(change.before, change.after, change.unit)


def moved_words(before: float | None, after: float | None, unit: str) -> str:
    """Two numbers of a unit, the one before and the one after."""
    return f"{amount(before, unit)} → {amount(after, unit)}"


def ratio_of(change: Change) -> str:
    """The ratio of a change, and its interval."""
    return ratio_words(change.ratio, change.ci95)


def ratio_words(ratio: float | None, ci95: tuple[float, float] | None) -> str:
    """A ratio with its interval; nothing where there is none."""
    if ratio is None:
        return ""
    times, *ends = alike(ratio, *(ci95 or ()))
    return f"{times} ×" + (f" ({' … '.join(ends)})" if ends else "")


WRITERS: dict[str, Callable[[Compared], str]] = {
    "md": changes_markdown,
    "json": changes_json,
    "csv": changes_csv,
    "junit": changes_junit,
    "github": changes_annotations,
}


def changes_writer(name: str) -> Callable[[Compared], str]:
    """The writer that `llx compare -o NAME` means. Raises `BadInput` for an unknown name."""
    if name not in WRITERS:
        raise BadInput(f"unknown format {name!r}", f"choose one of {', '.join(WRITERS)}")
    return WRITERS[name]


def measures_table(results: Sequence[Result]) -> Table:
    """What a gate may be about in these results, and whether it fails without a file of gates."""
    others = {name for one in results for name in other_numbers(one)}
    engines: dict[tuple[str, Kind, str], list[str]] = {}
    for (metric, kind, engine), unit in sorted(measurable(results).items()):
        engines.setdefault((metric, kind, unit), []).append(engine)
    rows = []
    for (metric, kind, unit), found in engines.items():
        usual = gate_for(GATES, metric, kind, found[0])
        fails = f"worse by {usual.threshold}" if usual and metric not in others else ""
        rows.append((metric, kind, unit, ", ".join(found), fails))
    return simple_table("", ("measure", "kind", "unit", "engines", "fails by default"), rows)


def show_verdict(found: Compared) -> None:
    """Print what was not judged, and then the verdict."""
    for line in found.unjudged:
        say(f"WARNING: {line}")
    say(verdict_line(found))


def show_changes(found: Compared) -> None:
    """Print the verdict, every change, and what else differs."""
    show_verdict(found)
    say("")
    show(changes_table(found))
    if found.settings:
        say("")
        show(settings_table(found))
    for line in ["", *found.notes] if found.notes else []:
        say(line)
