"""`llx models`."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only one family's: llama1, codellama, ….")
    ] = None,
) -> None:
    """List the models known by name."""
    from llx.llama.presets import PRESETS, family_named
    from llx.reports.console import say, show, simple_table
    from llx.reports.families import MODEL_HEADINGS, model_rows

    presets = family_named(family) if family else PRESETS
    show(simple_table("", MODEL_HEADINGS, model_rows(presets)))
    say("size: what `--size` alone means; with `--family` it means the family's own.")
