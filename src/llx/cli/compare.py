"""`llx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import GateFile
from llx.errors import EXIT_DONE, EXIT_GATE_FAILED, BadInput


def compare(
    baseline: Annotated[Path, typer.Argument(help="Results before, of `llx bench -o json`.")],
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Results after. [default: the first file holds both, measured in turns]",
            show_default=False,
        ),
    ] = None,
    gate: GateFile = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="md or json. [default: table]")
    ] = None,
) -> None:
    """Compare results with a baseline's; exit 1 where something regressed."""
    from llx.reports.compare.changes import (
        changes_json,
        changes_markdown,
        changes_table,
        settings_table,
        verdict_line,
    )
    from llx.reports.compare.gates import GATES, read_gates
    from llx.reports.compare.pairs import compare_results, in_turns
    from llx.reports.console import say, show
    from llx.reports.measures import followed
    from llx.result import read_results

    writers = {"md": changes_markdown, "json": changes_json}
    if output is not None and output not in writers:
        raise BadInput(f"unknown format {output!r}", f"choose one of {', '.join(writers)}")
    gates = read_gates(gate) if gate else GATES
    before = read_results(baseline)
    before, after = (
        in_turns(before) if results is None else map(followed, (before, read_results(results)))
    )
    found = compare_results(before, after, gates)
    if output:
        print(writers[output](found), end="")
    else:
        say(verdict_line(found))
        say("")
        show(changes_table(found))
        if found.settings:
            say("")
            show(settings_table(found))
        for line in ["", *found.notes] if found.notes else []:
            say(line)
    raise typer.Exit(EXIT_GATE_FAILED if found.regressed else EXIT_DONE)
