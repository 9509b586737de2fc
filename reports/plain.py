"""Text of a result, which anybody may have written, shown as text."""

from __future__ import annotations

import unicodedata

# Controls, which move a terminal's cursor; formats, which turn a line's direction around or hide;
# separators of lines and paragraphs; lone surrogates.
UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def visible(text: str) -> str:
    """The text on one line, with a mark in the place of each character that is not seen."""
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character in "\n\t":
        return " "
    return "\ufffd" if unicodedata.category(character) in UNSEEN else character
