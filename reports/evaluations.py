"""What `llx eval` prints: a line for each metric, and what a reader of it must know."""

from __future__ import annotations

from collections.abc import Iterator

from llx.evaluation import Evaluation, Metric, encode_evaluation
from llx.reports.console import say, show, simple_table
from llx.reports.markdown import code, markdown_table, safe
from llx.reports.units import plus_minus, significant
from llx.streams import print_data


def show_evaluation(evaluation: Evaluation, output: str | None = None) -> None:
    """Print an evaluation as a table, or as `md` or `json`."""
    title = (
        f"{evaluation.artifact.name} · {evaluation.precision} · {evaluation.engine} · "
        f"lm-eval {evaluation.versions['lm-eval']}"
    )
    headings = ("task", "metric", ">value", ">n", ">shots")
    if output == "json":
        print_data(encode_evaluation(evaluation).decode())
    elif output == "md":
        table = markdown_table(headings, _rows(evaluation))
        repeat = f"Repeat with {code(evaluation.command)}."
        lines = [safe(title), table, *map(safe, _conditions(evaluation)), repeat]
        print_data("\n\n".join(lines) + "\n")
    else:
        show(simple_table(title, headings, list(_rows(evaluation))))
        for line in _conditions(evaluation):
            say(line)


def _rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """A line for each metric; the task's name stands at its first."""
    for task in evaluation.tasks:
        name = f"{task.task} v{task.version}" if task.version else task.task
        for i, metric in enumerate(task.metrics):
            yield (
                "" if i else name,
                metric.metric if metric.filter == "none" else f"{metric.metric} ({metric.filter})",
                _value(metric),
                "" if task.documents is None else str(task.documents),
                "" if task.fewshot is None else str(task.fewshot),
            )


def _value(metric: Metric) -> str:
    if metric.stderr is None or metric.stderr != metric.stderr:
        return significant(metric.value)
    return plus_minus(metric.value, metric.stderr)


def _conditions(evaluation: Evaluation) -> Iterator[str]:
    """What a reader of the numbers must know."""
    settings = evaluation.settings
    if any(task.documents != task.of for task in evaluation.tasks):
        yield "Not all documents were scored: compare only with runs of the same --limit."
    if evaluation.truncated:
        count = evaluation.truncated
        yield (
            f"{count} {'context was' if count == 1 else 'contexts were'} cut from the left: the "
            f"cache holds {settings.capacity} positions."
        )
    if evaluation.without_system:
        yield (
            "The chat template refuses a system turn: conversations go without it, as in lm-eval's "
            f"Hugging Face backend ({evaluation.without_system} of them)."
        )
    if settings.allow_code:
        yield "Tasks were allowed to run code."
