"""`llx doctor`."""

from __future__ import annotations


def doctor() -> None:
    """Say what this machine has, what it lacks, and what would install it."""
    from llx.api.doctor import states
    from llx.reports.console import show, simple_table

    show(simple_table("", ("part", "state"), states()))
