"""`Results`: what `llx.bench` returns, a list of `llx.Result` that writes and shows itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llx.arguments import door
from llx.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DONE,
    EXIT_GATE_FAILED,
    EXIT_LACKING,
    Lacking,
    is_installed,
)
from llx.evaluation import read_measured
from llx.files import state_folder
from llx.notebook import html_table
from llx.outputs import write_out
from llx.reports.formats import records
from llx.result import ErrorRecord, Result, encode_results
from llx.scores import Scores

Measured = Result | str | Path | Sequence[Result | str | Path]
"""Results, or files of `llx bench -o json` and `llx eval -o json`, one or several."""


class Results(list[Result]):
    """The results of one measurement, one for each engine and artifact (schema `llx.result/1`)."""

    @classmethod
    @door
    def read(cls, *paths: str | Path) -> Results:
        """Results of files, each once; scores join what else was measured of the same.

        Raises `BadInput` where a file is neither `llx.result/1` nor `llx.eval/1`.
        """
        return results_of(paths)

    @property
    def errors(self) -> list[ErrorRecord]:
        """What went wrong with each engine, and with each of its tests."""
        return [error for result in self for error in errors_of(result)]

    @property
    def exit_code(self) -> int:
        """What `llx bench` exits with: the worst of what went wrong, 1 where one is slower."""
        codes = [error.exit_code for error in self.errors]
        compared = [test for result in self if result.against for test in result.against.tests]
        if any(test.verdict == "slower" for test in compared):
            codes.append(EXIT_GATE_FAILED)
        order = (EXIT_BUG, EXIT_LACKING, EXIT_BAD_INPUT, EXIT_GATE_FAILED)
        return next((code for code in order if code in codes), EXIT_DONE)

    @door
    def write(self, path: str | Path) -> Path:
        """Write a file that `llx compare` and `llx report` read, whole or not at all.

        Into a device or a pipe, such as /dev/stdout, they are written as into any stream. Raises
        `BadInput` for a folder.
        """
        write_out(Path(path), encode_results(list(self)))
        return Path(path)

    def to_frame(self) -> Any:
        """A row for each speed test, with the columns of `-o csv`: tok/s, nats per token, mJ.

        And why a row is invalid, TTFT and TPOT in ms, and the share of the roofline.
        A DataFrame of pandas where that is installed, else of polars; `Lacking` where neither is.
        """
        found = list(records(self))
        if is_installed("pandas"):
            import pandas

            return pandas.DataFrame(found)
        if is_installed("polars"):
            import polars

            return polars.DataFrame(found, infer_schema_length=None)
        raise Lacking("a frame needs pandas or polars", "pip install pandas")

    def __repr__(self) -> str:
        return f"<llx.Results: {', '.join(map(one_line_of, self)) or 'none'}>"

    def _repr_html_(self) -> str:
        return "".join(result._repr_html_() for result in self) or html_table("no results", (), ())


class Interrupted(KeyboardInterrupt):
    """A measurement was interrupted; `results` is what was measured until then."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results


def one_line_of(result: Result) -> str:
    """A result in a few words: of what, by what, and how fast."""
    return repr(result).removeprefix("<llx.Result: ").removesuffix(">")


def results_of(measured: Measured | Iterable[str | Path]) -> Results:
    """Results given as such or as files, each once."""
    parts = [measured] if isinstance(measured, (Result, str, Path)) else list(measured)
    found = Results()
    for part in parts:
        several = [part] if isinstance(part, Result) else read_measured(Path(part))
        found += [result for result in several if result not in found]
    return with_scores(found)


def with_scores(results: Results) -> Results:
    """Scores of `llx eval` beside what else was found of the same engine and artifact."""
    whole = Results()
    # First what was measured, which the scores join, wherever they stood.
    for one in sorted(results, key=lambda result: result.only_scored):
        i = next((i for i, other in enumerate(whole) if _take(other, one)), None)
        if i is None:
            whole.append(one)
        else:
            whole[i] = replace(whole[i], scores=_together(whole[i].scores, one.scores))
    return whole


def _take(other: Result, one: Result) -> bool:
    """Whether a result takes the scores of another."""
    if not one.only_scored or one.scores is None:
        return False
    same = other.engine == one.engine and other.artifact.sha256 == one.artifact.sha256
    if not same or other.scores is None:
        return same
    twice = {task.task for task in other.scores.tasks} & {task.task for task in one.scores.tasks}
    return not twice and replace(other.scores, tasks=[]) == replace(one.scores, tasks=[])


def _together(scores: Scores | None, more: Scores | None) -> Scores | None:
    if scores is None or more is None:
        return scores or more
    return replace(scores, tasks=[*scores.tasks, *more.tasks])


def rescued(data: bytes) -> Path | None:
    """Write what was measured and has no other place into a file, wherever one can be written."""
    for folder in (tempfile.gettempdir, state_folder, Path.cwd):
        try:
            place = Path(folder())
            place.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="llx-results-", suffix=".json", dir=place)
            with open(handle, "wb") as file:
                file.write(data)
        except (OSError, Lacking):
            continue
        return Path(name)
    return None


def errors_of(result: Result) -> list[ErrorRecord]:
    """What went wrong with an engine, and with each of its tests."""
    return [*([result.error] if result.error else []), *(one.error for one in result.failed)]
