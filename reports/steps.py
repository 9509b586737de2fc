"""Steps of a branch's history as they are shown: which measure, from what to what, since when."""

from __future__ import annotations

from collections.abc import Sequence

from llx.reports.compare.changes import amount, ratio_words
from llx.reports.compare.courses import Step
from llx.reports.units import minute

HEADINGS = ("step", "run", "measure", "before → after", "ratio", "at", "when")
SHORT_HASH = 10  # of a commit's 40 digits


def step_cells(step: Step, several_devices: bool) -> tuple[str, ...]:
    """A step in words; the worse is named so."""
    series = step.course.series
    unit = step.course.measure.unit.replace("bytes", "B").replace("ratio", "").replace("%", "")
    return (
        "worse" if step.worse else "better",
        f"{series.engine} {series.precision}, {series.artifact}"
        + (f", {step.course.device}" if several_devices else ""),
        step.course.metric,
        f"{amount(step.old, unit)} → {amount(step.new, unit)}",
        ratio_words(step.ratio, step.ci95),
        short_label(step.at.label),
        minute(step.at.created),
    )


def step_rows(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """All steps in words, the latest first."""
    several = len({step.course.device for step in steps}) > 1
    return [step_cells(step, several) for step in reversed(steps)]


def short_label(label: str) -> str:
    """What was measured; of a commit's hash its beginning."""
    is_hash = len(label) == 40 and not set(label) - set("0123456789abcdef")
    return label[:SHORT_HASH] if is_hash else label
