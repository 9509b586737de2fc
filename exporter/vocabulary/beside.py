"""What lies beside a tokenizer: tokenizer_config.json, and the files that it took the place of.

They are read as `AutoTokenizer` reads them (transformers 5.23, tokenization_utils_base.py and
tokenization_utils_tokenizers.py): where tokenizer_config.json has `added_tokens_decoder`, neither
special_tokens_map.json nor added_tokens.json is read. The files are untrusted: a field of the wrong
type is told and left out, where transformers would raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

from llx.typed import optional_json

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
MOST_ADDED = 1 << 16

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SWITCHES = ("add_bos_token", "add_eos_token")
# What a class calls its tokens where nothing says it.
OF_CLASS: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "CodeLlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
}


@dataclass(frozen=True)
class SpecialToken:
    """A token as these files write it. What is not said follows from `special`."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool | None = None

    def added(self, special: bool, normalized: bool | None = None) -> AddedToken:
        """The token as the library has it."""
        if normalized is None:
            normalized = not special if self.normalized is None else self.normalized
        return AddedToken(
            self.content,
            single_word=self.single_word,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            normalized=normalized,
            special=special,
        )


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Tokens by name and by id, the rest of the special ones, and the settings as they stand.

    `decided`: tokenizer_config.json has the added tokens, so that no other file is asked.
    """

    kind: str = ""  # the tokenizer's class, without Fast
    named: Mapping[str, SpecialToken] = field(default_factory=dict)
    extra: tuple[SpecialToken, ...] = ()
    added: Mapping[int, SpecialToken] = field(default_factory=dict)
    decided: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def switch(self, name: str) -> bool | None:
        """A setting that is true or false, or None where nothing is said."""
        value = self.settings.get(name)
        if name in self.settings and name in SWITCHES:
            return bool(value)  # null too is a word: transformers then adds nothing
        return value if isinstance(value, bool) else None


def read_beside(folder: Path, tell: Callable[[str], None]) -> Beside:
    """Read what lies beside a tokenizer. `tell` is told what is left out, and why.

    Raises `BadInput` where a file is no JSON object: transformers then has no tokenizer either.
    """
    settings = optional_json(folder / CONFIG)
    decided = "added_tokens_decoder" in settings
    mapped = {} if decided else optional_json(folder / MAP)
    read = _Reader(folder, tell)
    named = dict(read.named(settings, CONFIG)) | dict(read.named(mapped, MAP, special=True))
    extra = read.extra(settings, mapped)
    if isinstance(extra, dict):
        named |= extra
    unnamed = () if isinstance(extra, dict) else tuple(extra)
    special = {token.content for token in (*named.values(), *unnamed)}
    added = read.decoder(settings) if decided else read.added(special)
    kind = settings.get("tokenizer_class")
    return Beside(
        kind=kind.removesuffix("Fast") if isinstance(kind, str) else "",
        named=named,
        extra=unnamed,
        added=added,
        decided=decided,
        settings=settings,
    )


@dataclass(frozen=True)
class _Reader:
    """Reads the tokens of the files, each as what it must be."""

    folder: Path
    tell: Callable[[str], None]

    def token(self, value: Any, where: str, special: bool | None = None) -> SpecialToken | None:
        """A token that is written as a text, or as an object with flags."""
        if value is None or value == "":
            return None
        if isinstance(value, str):
            value = {"content": value, "special": True}
        elif isinstance(value, dict) and special is not None:
            value = value | {"special": special}
        try:
            token = msgspec.convert(value, SpecialToken)
            token.content.encode()
        except (msgspec.ValidationError, UnicodeEncodeError):
            self.tell(f"{self.folder / where} is no token: {str(value)[:60]!r} is ignored")
            return None
        return token if token.content else None

    def named(
        self, values: Mapping[str, Any], file: str, special: bool | None = None
    ) -> Iterator[tuple[str, SpecialToken]]:
        """The tokens that have a name: transformers' own, and what else ends in `_token`."""
        for name, value in values.items():
            own = name.endswith("_token") and name not in SWITCHES and isinstance(value, str)
            if name in NAMES or own or (special and name.endswith("_token")):
                token = self.token(value, f"{file}: {name}", special)
                if token:
                    yield name, token

    def extra(
        self, settings: Mapping[str, Any], mapped: Mapping[str, Any]
    ) -> list[SpecialToken] | dict[str, SpecialToken]:
        """The special tokens without a name, or those that are named by an object."""
        old, new = "additional_special_tokens", "extra_special_tokens"
        found: list[SpecialToken] = []
        chosen = [(CONFIG, new, settings.get(new))]
        if not settings.get(new):
            chosen = [(CONFIG, old, settings.get(old))]
        chosen.append((MAP, new, mapped.get(new)))
        if not any(value for _, _, value in chosen):
            chosen.append((MAP, old, mapped.get(old)))
        for file, name, value in chosen:
            where = f"{file}: {name}"
            if isinstance(value, dict):
                pairs = ((str(k), self.token(v, where)) for k, v in value.items())
                return {k: token for k, token in pairs if token}
            if value is not None and not isinstance(value, list):
                self.tell(f"{self.folder / where} is no list of tokens: ignored")
                continue
            tokens = (self.token(v, where, file == MAP or None) for v in value or ())
            found += [token for token in tokens if token]
        return found

    def decoder(self, settings: Mapping[str, Any]) -> dict[int, SpecialToken]:
        """`added_tokens_decoder`: tokens by id, which JSON writes as texts."""
        value = settings.get("added_tokens_decoder")
        where = f"{CONFIG}: added_tokens_decoder"
        if not isinstance(value, dict) or len(value) > MOST_ADDED:
            self.tell(f"{self.folder / where} is no object of tokens by id: ignored")
            return {}
        found = {}
        for key, entry in value.items():
            token = self.token(entry, where) if isinstance(entry, dict) else None
            if not key.isdecimal() or len(key) > 9 or token is None:
                self.tell(f"{self.folder / where}: {key[:20]!r} is no token with its id: ignored")
            else:
                found[int(key)] = token
        return dict(sorted(found.items()))

    def added(self, special: set[str]) -> dict[int, SpecialToken]:
        """added_tokens.json: names with ids; those that are special by another file are so here."""
        values = optional_json(self.folder / ADDED)
        found = {}
        for name, i in values.items():
            if type(i) is not int or not 0 <= i < 1 << 31 or len(values) > MOST_ADDED:
                self.tell(f"{self.folder / ADDED}: {name[:40]!r} has no id: ignored")
            elif name:
                found[i] = SpecialToken(name, special=name in special)
        return dict(sorted(found.items()))
