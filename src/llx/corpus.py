"""The texts that models are judged and calibrated on: what comes with CPython, no download.

One half of its language reference is for judging, whatever the artifact, and the other for
calibrating: what was quantized by a text must not be judged on it. Judged as well is some of its
code, since what was quantized by one kind of text is too good on that.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llx.errors import BadInput, printable, utf8
from llx.tokenizer import added_around, encode

WINDOW = 512
WINDOWS = 5
MOST_SCORED = 1 << 19  # tokens that a reference holds: 1.4 GB of logits
MOST_BYTES = 1 << 28  # of a text
Bos = Literal["each", "first", "none"]
# To calibrate on, where no file is named: half of Python's documentation, what the model writes
# itself, or, where nothing is said, both.
OwnText = Literal["docs", "self"]
OWN_TEXTS: tuple[OwnText, ...] = get_args(OwnText)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text with its name and the hash of its UTF-8 bytes. `own`: one that comes with Python."""

    name: str
    text: str
    sha256: str
    own: bool = True


def evaluation_texts() -> tuple[Corpus, Corpus]:
    """What every engine is judged on: text of the calibration's kind, and text of another."""
    return evaluation_text(), evaluation_code()


def evaluation_text() -> Corpus:
    """The second half of the topics."""
    return _corpus("second half", "\n\n".join(_halves()[1]))


def evaluation_code() -> Corpus:
    """A module of Python's library, 100 kB, which nothing is calibrated on unless it is named."""
    text = Path(argparse.__file__).read_text(encoding="utf-8")
    return Corpus(name="argparse.py", text=text, sha256=_sha256(text), own=False)


def calibration_text() -> Corpus:
    """The first half of the topics, without the paragraphs that the second repeats.

    The topics overlap, as `compound` and `with` do: a sixth of the first half stands in the second
    as well.
    """
    first, second = _halves()
    judged = {_words(paragraph) for paragraph in second}
    kept = [paragraph for paragraph in first if _words(paragraph) not in judged]
    return _corpus("first half without what the second repeats", "\n\n".join(kept))


def corpus_to_calibrate_on(asked: Path | OwnText | None) -> Corpus | None:
    """The text to calibrate on, if any is read; as `corpus_of` raises."""
    if asked == "self":
        return None
    return corpus_of(asked) if isinstance(asked, Path) else calibration_text()


def corpus_of(path: Path) -> Corpus:
    """A user's text. Raises `BadInput` where it is no UTF-8, or has no end in sight."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no text ({error})", "name a file of UTF-8 text") from None
    if len(data) > MOST_BYTES:
        raise BadInput(f"{path} has more than {MOST_BYTES >> 20} MiB", "name a part of it")
    return Corpus(name=printable(utf8(path.name)), text=text, sha256=_sha256(text), own=False)


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
class Cut:
    """How windows are cut out of a text.

    `window`: their tokens. `windows`: how many; 0 for as many as the text has, one behind the
    other, and None for up to 5 of them. `stride`: text tokens from one window's first to the next
    one's, or None: spread evenly over the text. Where that is less than a window holds, they
    overlap, and the last tokens of each are scored that no window before it had. `bos`: whether
    what a tokenizer begins a text with stands before each window, the first, or none.
    """

    window: int = WINDOW
    windows: int | None = None
    stride: int | None = None
    bos: Bos = "each"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of a corpus' tokens, [W, window], and how they were cut.

    `scored`: how many of each window's last tokens count; None is all but its first.
    """

    tokens: NDArray[np.int64]
    stride: int
    bos: str
    scored: int | None = None


def cut_windows(tokenizer: Tokenizer, corpus: Corpus, cut: Cut) -> Windows:
    """Cut windows; what the tokenizer puts behind a text is in none.

    Raises `BadInput` where the corpus is too short, or what is asked for too much.
    """
    begun, _ = added_around(tokenizer, corpus.text[:100])
    before = begun if cut.bos == "each" else []
    ids = encode(tokenizer, corpus.text, add_special_tokens=False)
    if cut.bos == "first":
        ids = begun + ids
    body = cut.window - len(before)
    holds = f"the {len(ids)} tokens of {corpus.name}"
    if body < 2 or len(ids) < body:
        raise BadInput(
            f"a window of {cut.window} tokens does not fit into {holds}",
            "name a longer text, or ask for fewer or shorter windows",
        )
    count, stride = _spread(len(ids), body, cut)
    scored = stride if stride < body else cut.window - 1
    if count * scored > MOST_SCORED:
        raise BadInput(
            f"{count} windows score {count * scored} tokens, and a reference holds {MOST_SCORED}",
            f"ask for --windows {max(MOST_SCORED // scored, 1)} or fewer",
        )
    if count < 1 or stride * (count - 1) + body > len(ids):
        raise BadInput(
            f"{cut.windows} windows of {cut.window} tokens do not fit into {holds}",
            "ask for fewer or shorter windows",
        )
    rows = [before + ids[at : at + body] for at in range(0, stride * count, stride)]
    return Windows(
        tokens=np.array(rows, dtype=np.int64),
        stride=stride,
        bos={"each": "each window", "first": "first window"}[cut.bos]
        if begun and cut.bos != "none"
        else "none",
        scored=stride if stride < body else None,
    )


def _spread(length: int, body: int, cut: Cut) -> tuple[int, int]:
    """How many windows, and the stride, of a text that holds one or more."""
    if cut.stride is None:
        count = cut.windows or length // body
        if cut.windows is None:
            count = min(count, WINDOWS)
        return count, body if cut.windows == 0 else max(length // count, body)
    holds = 1 + (length - body) // cut.stride
    if cut.windows is None:
        return min(holds, WINDOWS), cut.stride
    return cut.windows or holds, cut.stride


def require_known(highest: int, vocab: int) -> None:
    """Raise `BadInput` where a tokenizer's token is beyond the model's vocabulary."""
    if highest >= vocab:
        raise BadInput(
            f"the tokenizer gives token {highest}, and the model knows {vocab}",
            "export with the tokenizer that belongs to the weights",
        )
