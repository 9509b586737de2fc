"""`llx models`."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only one family's: llama3, qwen2.5, ….")
    ] = None,
) -> None:
    """List the models known by name."""
    from llx.llama.presets import PRESETS, family_named
    from llx.reports.console import say
    from llx.reports.families import show_models

    show_models(family_named(family) if family else PRESETS)
    say("size: what `--size` alone means; with `--family`, which takes what stands in")
    say("brackets, it means the family's own.")
