"""What `llx eval` prints: a line for each metric, and what a reader of it must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llx.evaluation import Evaluation, encode_evaluations
from llx.reports.console import say, show, simple_table
from llx.reports.markdown import code, markdown_table, safe
from llx.reports.scores import score_table
from llx.streams import print_data


def show_evaluations(evaluations: Sequence[Evaluation], output: str | None = None) -> None:
    """Print evaluations as one table, or as `md` or `json`."""
    results = [one.as_result() for one in evaluations]
    headings, rows = score_table(results)
    if len(evaluations) == 1:
        headings[-1] = ">value"
    title = _title(evaluations)
    conditions = list(dict.fromkeys(line for one in evaluations for line in _conditions(one)))
    if output == "json":
        print_data(encode_evaluations(list(evaluations)).decode())
    elif output == "md":
        commands = dict.fromkeys(one.command for one in evaluations)
        lines = [safe(title), markdown_table(headings, rows), *map(safe, conditions)]
        print_data("\n\n".join([*lines, *(f"Repeat with {code(c)}." for c in commands)]) + "\n")
    else:
        show(simple_table(title, headings, rows))
        for line in conditions:
            say(line)


def _title(evaluations: Sequence[Evaluation]) -> str:
    """What was scored: of several what they have in common."""
    columns = (
        [one.artifact.name for one in evaluations],
        [one.precision for one in evaluations],
        [one.engine for one in evaluations],
        [f"lm-eval {one.versions['lm-eval']}" for one in evaluations],
    )
    return " · ".join(" / ".join(dict.fromkeys(column)) for column in columns)


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
