"""The text that models are judged and calibrated on: CPython's language reference, no download.

One half is for judging, whatever the artifact, and the other for calibrating: what was quantized by
a text must not be judged on it.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llx.errors import BadInput
from llx.tokenizer import added_around, encode

WINDOW = 512
WINDOWS = 5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text with its name and the hash of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def evaluation_text() -> Corpus:
    """The second half of the topics: what every engine is judged on."""
    return _corpus("second half", "\n\n".join(_halves()[1]))


def calibration_text() -> Corpus:
    """The first half of the topics, without the paragraphs that the second repeats.

    The topics overlap, as `compound` and `with` do: a sixth of the first half stands in the second
    as well.
    """
    first, second = _halves()
    judged = {_words(paragraph) for paragraph in second}
    kept = [paragraph for paragraph in first if _words(paragraph) not in judged]
    return _corpus("first half without what the second repeats", "\n\n".join(kept))


def corpus_of(path: Path) -> Corpus:
    """A user's text. Raises `BadInput` where it is no UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no text ({error})", "name a file of UTF-8 text") from None
    return Corpus(name=path.name, text=text, sha256=_sha256(text))


def _halves() -> tuple[list[str], list[str]]:
    """Paragraphs of `pydoc_data.topics`, joined in order of name: 465 kB of English prose in all.

    They differ between Python releases, which is why a text's hash belongs to every number.
    """
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[key] for key in sorted(topics)).split("\n\n")
    ends = np.cumsum([len(paragraph) + 2 for paragraph in paragraphs])
    middle = int(np.searchsorted(ends, ends[-1] / 2))
    return paragraphs[:middle], paragraphs[middle:]


def _words(paragraph: str) -> str:
    """A paragraph however it is wrapped and indented."""
    return " ".join(paragraph.split())


def _corpus(part: str, text: str) -> Corpus:
    return Corpus(
        name=f"pydoc topics of Python {platform.python_version()}, {part}",
        text=text,
        sha256=_sha256(text),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of a corpus' tokens, [W, window], and how they were cut."""

    tokens: NDArray[np.int64]
    stride: int
    bos: str


def cut_windows(tokenizer: Tokenizer, corpus: Corpus, window: int, count: int) -> Windows:
    """Cut `count` windows, spread evenly over the corpus and not overlapping.

    A tokenizer that begins a text with special tokens begins each window with them; what it puts
    behind a text is in no window. Raises `BadInput` where the corpus is too short.
    """
    prefix, _ = added_around(tokenizer, corpus.text[:100])
    ids = encode(tokenizer, corpus.text, add_special_tokens=False)
    body = window - len(prefix)
    stride = len(ids) // count
    if body < 2 or stride < body:
        raise BadInput(
            f"{count} windows of {window} tokens do not fit into the {len(ids)} tokens of "
            f"{corpus.name}",
            "ask for fewer or shorter windows",
        )
    rows = [prefix + ids[at : at + body] for at in range(0, stride * count, stride)]
    tokens = np.array(rows, dtype=np.int64)
    return Windows(tokens=tokens, stride=stride, bos="each window" if prefix else "none")


def require_known(highest: int, vocab: int) -> None:
    """Raise `BadInput` where a tokenizer's token is beyond the model's vocabulary."""
    if highest >= vocab:
        raise BadInput(
            f"the tokenizer gives token {highest}, and the model knows {vocab}",
            "export with the tokenizer that belongs to the weights",
        )
