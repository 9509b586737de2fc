"""Small tables for notebooks, where a result and an artifact show themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text as HTML; names in it are untrusted, and stay text."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = line(headings, "th") if any(headings) else ""
    body = "".join(line(row, "td") for row in rows)
    caption = f'<caption style="white-space: nowrap; text-align: left">{_text(title)}</caption>'
    return f"<table>{caption}{head}{body}</table>"


def _text(cell: str) -> str:
    """Text as HTML, with a mark in the place of each character that is not seen."""
    seen = (c if c.isprintable() else " " if c in "\n\t" else "\ufffd" for c in cell)
    return escape("".join(seen))


def with_deviation(mean: float, sd: float) -> str:
    """A mean and its standard deviation, to the deviation's second digit, in plain decimals."""
    places = max(0, 1 - math.floor(math.log10(sd))) if 0 < sd < math.inf else 1
    return f"{mean:,.{places}f} ± {sd:,.{places}f}"
