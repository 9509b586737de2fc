"""The one door to the library `tokenizers`, which raises bare `Exception`s, and panics.

A tokenizer.json is untrusted: what is wrong with it may show when it is parsed, or only on a text.
A panic of the library is a `BaseException` and tells its story on standard error. Here all of it
becomes a `BadInput` of one line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llx.errors import BadInput, LlxError, one_line
from llx.files import LFS_POINTER, lfs_pointer

MOST_BYTES = 128 << 20  # Gemma 3, with 262144 tokens, has 33 MB
MOST_STEPS = 256  # of the four stages beside the model; Llama 2 has five
MOST_ID = 1 << 22  # the library lists every id up to the largest
MOST_GROWTH = 1 << 12  # how much longer the steps may make a text
PROBE = "A b, 1.\n"
BELONGS = "use the tokenizer.json that belongs to the weights, or download it again"


def parse_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """A tokenizer that was seen to encode and decode, out of the bytes of a tokenizer.json.

    Truncation and padding, which such a file can hold, are switched off. Raises `BadInput` where
    the bytes of `path` are no tokenizer, or one that would need absurdly much memory.
    """
    if data.startswith(LFS_POINTER):
        raise lfs_pointer(path)
    document = _document(data, path)
    _require_modest(document, path)
    _require_ids(document, path)
    with guarded(f"{path} is no tokenizer that can be used", BELONGS):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode("")
        tokenizer.encode(PROBE, add_special_tokens=False)
        tokenizer.decode(tokenizer.encode(PROBE).ids)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
    """Ids of a text. Raises `BadInput` where it is no Unicode, or the tokenizer fails on it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("the text holds bytes that are no UTF-8", "write it in UTF-8") from None
    with guarded("the tokenizer fails on this text", BELONGS):
        return list(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    """The text of ids; an id without a token has none. `BadInput` where the tokenizer fails."""
    with guarded("the tokenizer fails on the model's tokens", BELONGS):
        return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


def added_around(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts in front of a text, and those behind it."""
    bare = encode(tokenizer, text, add_special_tokens=False)
    whole = encode(tokenizer, text)
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    return [], []


def _document(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object of a tokenizer.json; `BadInput` says what is there instead."""
    if len(data) > MOST_BYTES:
        raise BadInput(f"{path} is larger than {MOST_BYTES >> 20} MiB", BELONGS)
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        what = "is empty" if not data.strip() else f"is not readable JSON ({error})"
        raise BadInput(f"{path} {what}", BELONGS) from None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise BadInput(f"{path} is JSON, but no tokenizer: it has no model", BELONGS)
    return document


def _require_modest(document: dict[str, Any], path: Path) -> None:
    """Raise `BadInput` where the stages beside the model are absurdly many, or multiply a text.

    A chain of replacements doubles a text with each: thirty of them would ask for gigabytes.
    """
    steps, growth = 0, 1.0
    open_ = [
        document.get(stage)
        for stage in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    ]
    while open_:
        value = open_.pop()
        if isinstance(value, list):
            open_ += value
        elif isinstance(value, dict):
            steps += 1
            growth *= _growth(value)
            open_ += [inner for inner in value.values() if isinstance(inner, (dict, list))]
        if steps > MOST_STEPS or growth > MOST_GROWTH:
            raise BadInput(f"{path} prepares text in absurdly many steps", BELONGS)


def _require_ids(document: dict[str, Any], path: Path) -> None:
    """Raise `BadInput` where an id is absurdly large: the library makes a place for each below."""
    model, added = document.get("model"), document.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    if isinstance(added, list):
        ids += [token.get("id") for token in added if isinstance(token, dict)]
    largest = max((i for i in ids if isinstance(i, int)), default=0)
    if largest > MOST_ID:
        raise BadInput(f"{path} has a token of id {largest}, far beyond any vocabulary", BELONGS)


def _growth(step: dict[str, Any]) -> float:
    """How many times longer a step can make a text, at most."""
    content, pattern, single = step.get("content"), step.get("pattern"), step.get("single")
    if step.get("type") == "Replace" and isinstance(content, str):
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(content) / len(text) if text else 1.0 + len(content))
    if step.get("type") == "TemplateProcessing" and isinstance(single, list):
        return max(1, sum("Sequence" in piece for piece in single if isinstance(piece, dict)))
    return 1.0


@contextmanager
def guarded(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever the library raises into `BadInput`, and keep its panics off the terminal."""
    try:
        with _quiet():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, LlxError):
        raise
    except BaseException as error:
        raise BadInput(f"{what} ({one_line(error)})", remedy) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Standard error goes nowhere: a panic of Rust prints a trace there before it is raised."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
