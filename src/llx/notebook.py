"""Small tables for notebooks, where a result and an artifact show themselves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text as HTML; names in it are untrusted, and stay text."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = line(headings, "th") if any(headings) else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(title)}</caption>{head}{body}</table>"
