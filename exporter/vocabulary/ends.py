"""Where text ends: the ids that a folder's configuration names, each held against the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llx.errors import BadInput
from llx.manifest import TextRecord
from llx.typed import optional_json

# In transformers' order: what the first says of the end, the others do not.
FILES = ("generation_config.json", "config.json")
MOST_ENDS = 256


def ends_of(
    folder: Path, tokenizer: Tokenizer, record: TextRecord, rows: int, tell: Callable[[str], None]
) -> tuple[int, ...]:
    """Where text ends: what is configured, and the tokenizer's own end.

    transformers' `generate` stops at the first alone, which of a model that was tuned for chats is
    often its base's; a text that goes on past the tokenizer's own end was never meant. So both
    count, and where that makes a difference it is told.
    """
    configured = configured_ends(folder, rows, tell)
    ends = configured or list(record.eos_ids)
    end = tokenizer.token_to_id(record.eos_token)
    if end is not None and end < rows:
        if configured and end not in configured:
            tell(
                f"text ends at token {end} ({record.eos_token[:40]!r}), the tokenizer's own end, "
                f"too: the configuration of {folder} names {', '.join(map(str, configured))} alone"
            )
        ends = [*ends, end]
    return tuple(dict.fromkeys(i for i in ends if i < rows))


def configured_ends(folder: Path, vocab: int, tell: Callable[[str], None]) -> list[int]:
    """The ids at which transformers' `generate` stops, of a model with `vocab` tokens.

    `tell` is told of every value that means nothing; a file of such values alone is passed over.
    """
    for name in FILES:
        try:
            value = optional_json(folder / name).get("eos_token_id")
        except BadInput as error:
            tell(f"{error.message}: what it says of the text's end is ignored")
            continue
        ends = known_ids(value, vocab, f"{folder / name}: eos_token_id", tell)
        if ends:
            return ends
    return []


def known_ids(value: Any, vocab: int, where: str, tell: Callable[[str], None]) -> list[int]:
    """Ids out of what should be one or a list of them; `tell` is told what is none of the model."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    found = []
    for entry in values[:MOST_ENDS]:
        i = _whole(entry)
        if i is None or not 0 <= i < vocab:
            tell(f"{where}: {str(entry)[:40]!r} is none of the model's {vocab} tokens: ignored")
        else:
            found.append(i)
    return list(dict.fromkeys(found))


def _whole(value: Any) -> int | None:
    """An integer, however a converter wrote it: 2, 2.0 or "2"."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return value if type(value) is int else None
