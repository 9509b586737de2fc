"""The help of a command, in words of who types it: no type of Python stands for an argument."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand


class Argument(TyperArgument):
    """An argument whose `metavar` is all that is said of its form.

    Typer adds the type in Python, `<list[Path]>`, and brackets of its own.
    """

    def display_type_rich(self, ctx: Any) -> str | None:  # noqa: ARG002
        """No type: what it is stands in the help."""
        return None

    def _usage_display_name(self) -> str:
        return self.display_name_raw


class Command(TyperCommand):
    """A command whose arguments are such ones."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        for param in self.params:
            if isinstance(param, TyperArgument):
                param.__class__ = Argument
