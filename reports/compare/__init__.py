"""Results held against a baseline's: pairs, verdicts by kind of measure, gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.reports.compare.change import Change as Change
    from llx.reports.compare.changes import changes_json as changes_json
    from llx.reports.compare.changes import changes_markdown as changes_markdown
    from llx.reports.compare.changes import changes_table as changes_table
    from llx.reports.compare.changes import verdict_line as verdict_line
    from llx.reports.compare.gates import Gate as Gate
    from llx.reports.compare.gates import gate_for as gate_for
    from llx.reports.compare.gates import read_gates as read_gates
    from llx.reports.compare.pairs import Compared as Compared
    from llx.reports.compare.pairs import compare_results as compare_results

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "change": "Change",
        "changes": "changes_json changes_markdown changes_table verdict_line",
        "gates": "Gate gate_for read_gates",
        "pairs": "Compared compare_results",
    },
)
