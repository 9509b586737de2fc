"""`llx convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Files of `llx bench` or `llx eval -o json`."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="md, json, jsonl, csv; junit, bencher, github-bigger, github-smaller.",
        ),
    ],
) -> None:
    """Write results of files in another format; what it has no place for is said on stderr."""
    from llx.api.results import Results
    from llx.reports.formats import writer_named

    writer_named(output)(Results.read(*results))
