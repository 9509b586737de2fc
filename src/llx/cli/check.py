"""`llx check`."""

from __future__ import annotations

from llx.cli.arguments import ArtifactFolder


def check(folder: ArtifactFolder = None) -> None:
    """Check every byte, the graphs' structure, and parity with the PyTorch reference."""
    from llx.api.check import findings
    from llx.reports.console import say

    for line in findings(folder):
        say(line)
