"""`llx.compare`: results held against a baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llx.api.results import Measured, results_of
from llx.arguments import door
from llx.errors import BadInput
from llx.reports.compare.gates import GATES, Gate, read_gates
from llx.reports.compare.pairs import Compared, against_past, compare_results, in_turns
from llx.reports.compare.past import Past
from llx.reports.history import read_history
from llx.reports.measures import followed

Gates = str | Path | Sequence[Gate] | None
"""A TOML file of gates, gates, or None for those that hold without a file."""


@door
def compare(
    results: Measured,
    baseline: Measured | None = None,
    *,
    gates: Gates = None,
    history: str | Path | None = None,
) -> Compared:
    """Compare results with a baseline's, or with their branch's history, by what they measure.

    Args:
        results: Results after, or files of them.
        baseline: Results before, or files. None: `results` holds both, measured in turns, or is
            held against the history.
        gates: What may get how much worse: a TOML file, or gates.
        history: A file that `llx.report` keeps: of how far separate runs lie apart, which else
            decide nothing within a factor of two.

    Returns:
        Every measure that both have, with its verdict. `regressed` is what fails: where it is not
        empty, `llx compare` exits with 1.

    Raises:
        BadInput: Nothing can be paired, a file holds no results, a gate that means nothing, a
            history that is none, or has nothing of the same engine, artifact and device.
        Lacking: A history needs ruptures, which finds its steps.

    """
    after, meant = results_of(results), gates_of(gates)
    past = Past(read_history(Path(history)), after) if history is not None else None
    if baseline is not None:
        sides = followed(results_of(baseline)), followed(after)
    elif past is None or any(result.turns for result in after):
        sides = in_turns(after)
    else:
        found = against_past(after, past, meant)
        if found is None:
            raise BadInput(
                f"{history} has nothing that these results go on with: no other run of the same "
                "engine, precision, artifact, device and threads",
                "add them first: `llx report RESULTS --history FILE`, or name a --baseline",
            )
        return found
    return compare_results(*sides, meant, past)


def gates_of(gates: Gates) -> Sequence[Gate]:
    """The gates that are meant. Raises `BadInput` where a file holds none."""
    if gates is None:
        return GATES
    return read_gates(Path(gates)) if isinstance(gates, (str, Path)) else gates
