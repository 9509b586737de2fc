"""`llx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import Baseline, GateFile, path_named
from llx.errors import BadInput


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Files of `llx bench` or `llx eval -o json`. Without --baseline the first is "
            "held against the others, until llx 0.3: then all are shown.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=path_named, metavar="DIR", help="Folder to write into."
        ),
    ],
    baseline: Baseline = None,
    gate: GateFile = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Show all files, and compare none.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file that keeps a line of each result: they are added, and all are drawn over "
            "time. Without a baseline they are held against what it had before.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="What was measured, for the history: a commit.", show_default=False
        ),
    ] = "",
    branch: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of which branch the history is: another's is refused.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Write a report of one or several result files. What fails on a regression is compare."""
    from llx.api.report import report as write
    from llx.reports.compare.changes import show_verdict
    from llx.reports.console import (
        measured_in_words,
        say,
        show,
        show_results,
        simple_table,
        warn,
    )
    from llx.reports.steps import HEADINGS, step_rows
    from llx.reports.units import counted

    if baseline and no_baseline:
        raise BadInput("--baseline and --no-baseline exclude one another", "leave one of them out")
    alone = no_baseline or baseline is not None
    if not alone and len(results) > 1:
        warn("name what the first file is held against: --baseline FILE")
    written = write(
        results if alone else results[:1],
        output,
        baseline=[] if no_baseline else baseline or results[1:],
        gates=gate,
        history=history,
        label=label,
        branch=branch,
        tell=warn,
    )
    say(measured_in_words(written.shown))
    if written.compared:
        show_verdict(written.compared)
    else:
        say("compared with nothing")
    say("")
    show_results(written.shown)
    if written.baseline:
        say("\nThe baseline:\n")
        show_results(written.baseline)
    say(f"\nreport: {written.markdown}")
    if written.steps:
        say("\nSteps in the history:\n")
        show(simple_table("", HEADINGS, step_rows(written.steps)))
        say("")
    if history:
        say(f"history: {history}, {counted(written.remembered or 0, 'line')}, {written.added} new")
    say(f"page: {written.page}")
