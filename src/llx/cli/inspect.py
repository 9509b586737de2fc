"""`llx inspect`."""

from __future__ import annotations

from llx.cli.arguments import ArtifactFolder


def inspect(folder: ArtifactFolder = None) -> None:
    """Show what an artifact holds: ops, bytes, what a decode step reads."""
    from llx.api.inspect import inspect as look
    from llx.reports.console import say, show, simple_table

    found = look(folder)
    for line in found.lines:
        say(line)
    for section in found.sections:
        show(simple_table(f"\n{section.title}", section.headings, section.rows))
