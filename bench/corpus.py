"""The text that fidelity is judged on: CPython's own language reference, no download needed."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from llx.bench.sessions.base import Tokens
from llx.errors import BadInput

WINDOW = 512
WINDOWS = 5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text with its name and the hash of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def pydoc_topics() -> Corpus:
    """`pydoc_data.topics`, joined in order of name: 465 kB of technical English prose.

    It differs between Python releases, which is why the hash belongs to every number.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[key] for key in sorted(topics))
    return Corpus(
        name=f"pydoc topics of Python {platform.python_version()}",
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of a corpus' tokens, [W, window], and how they were cut."""

    tokens: Tokens
    stride: int
    bos: str


def cut_windows(tokenizer: Tokenizer, corpus: Corpus, window: int, count: int) -> Windows:
    """Cut `count` windows, spread evenly over the corpus and not overlapping.

    A tokenizer that begins a text with special tokens begins each window with them. Raises
    `BadInput` where the corpus is too short.
    """
    prefix = tokenizer.encode("").ids
    ids = tokenizer.encode(corpus.text, add_special_tokens=False).ids
    body = window - len(prefix)
    stride = len(ids) // count
    if body < 2 or stride < body:
        raise BadInput(
            f"{count} windows of {window} tokens do not fit into {len(ids)} tokens",
            "ask for fewer or shorter windows",
        )
    rows = [prefix + ids[at : at + body] for at in range(0, stride * count, stride)]
    tokens = np.array(rows, dtype=np.int64)
    return Windows(tokens=tokens, stride=stride, bos="each window" if prefix else "none")
