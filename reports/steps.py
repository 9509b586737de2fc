"""Steps of a branch's history as they are shown: which measure, from what to what, since when."""

from __future__ import annotations

from collections.abc import Sequence

from llx.reports.compare.changes import moved_words, ratio_words
from llx.reports.compare.courses import Step
from llx.reports.notes import model_name

UNITS = {"tok/s": "tok/s", "bytes": "B"}
HEADINGS = ("step", "run", "measure", "before → after", "ratio", "since")
SHORT_HASH = 10  # of a commit's 40 digits


def step_rows(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """All steps in words, the latest first; what all have in common is left out."""
    models = {_model(step) for step in steps}
    devices = {step.course.device for step in steps}
    rows: list[tuple[str, ...]] = []
    for step in reversed(steps):
        series, unit = step.course.series, UNITS.get(step.course.measure.unit, "")
        run = [f"{series.engine} {series.precision}"]
        run += [_model(step)] if len(models) > 1 else []
        run += [step.course.device] if len(devices) > 1 else []
        rows.append(
            (
                "worse" if step.worse else "better",
                ", ".join(run),
                step.course.metric,
                moved_words(step.old, step.new, unit),
                ratio_words(step.ratio, step.ci95),
                f"{short_label(step.at.label)} {step.at.created[:10]}".strip(),
            )
        )
    return rows


def _model(step: Step) -> str:
    return model_name(step.course.series.artifact, step.course.series.precision)


def short_label(label: str) -> str:
    """What was measured; of a commit's hash its beginning."""
    is_hash = len(label) == 40 and not set(label) - set("0123456789abcdef")
    return label[:SHORT_HASH] if is_hash else label
