"""Text of a result, which anybody may have written, shown as text."""

from __future__ import annotations

import unicodedata

# Controls, which move a terminal's cursor; formats, which turn a line's direction around or hide;
# separators of lines and paragraphs; lone surrogates.
UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def visible(text: str) -> str:
    """The text on one line, with a mark in the place of each character that is not seen."""
    return "".join(map(_seen, text))


# What turns the direction of a line around: emoji and scripts need the other formats.
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SHOWN = f"{TURNING}\ufffe\uffff"


def spoken(text: str) -> str:
    """What a model says: its lines and tabs as they are, and no command to a terminal.

    Other controls, and what turns a line around, stand there as codes. It is the same wherever it
    is printed to: a pipe often ends at a terminal. The Python door hands on all of it.
    """
    return "".join(map(_spoken, text))


def _spoken(character: str) -> str:
    if character in "\n\t":
        return character
    unseen = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in SHOWN
    return repr(character)[1:-1] if unseen else character


def _seen(character: str) -> str:
    if character in "\n\t":
        return " "
    unseen = unicodedata.category(character) in UNSEEN or character in "\ufffe\uffff"  # nor XML's
    return "\ufffd" if unseen else character
