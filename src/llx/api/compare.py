"""`llx.compare`: results held against a baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llx.api.results import Measured, results_of
from llx.arguments import door
from llx.reports.compare.gates import GATES, Gate, read_gates
from llx.reports.compare.pairs import Compared, compare_results, in_turns
from llx.reports.measures import followed

Gates = str | Path | Sequence[Gate] | None
"""A TOML file of gates, gates, or None for those that hold without a file."""


@door
def compare(
    results: Measured, baseline: Measured | None = None, *, gates: Gates = None
) -> Compared:
    """Compare results with a baseline's, by what they measure.

    Args:
        results: Results after, or files of them.
        baseline: Results before, or files. None: `results` holds both, measured in turns.
        gates: What may get how much worse: a TOML file, or gates.

    Returns:
        Every measure that both have, with its verdict. `regressed` is what fails: where it is not
        empty, `llx compare` exits with 1.

    Raises:
        BadInput: Nothing can be paired, a file holds no results, a gate that means nothing.

    """
    after = results_of(results)
    if baseline is None:
        sides = in_turns(after)
    else:
        sides = followed(results_of(baseline)), followed(after)
    return compare_results(*sides, gates_of(gates))


def gates_of(gates: Gates) -> Sequence[Gate]:
    """The gates that are meant. Raises `BadInput` where a file holds none."""
    if gates is None:
        return GATES
    return read_gates(Path(gates)) if isinstance(gates, (str, Path)) else gates
