"""The tokenizer of a folder, with what lies beside it: the ids of transformers' `AutoTokenizer`.

A tokenizer.json comes first and its own way to prepare a text stands, whatever class is named; else
tokenizer.model; else GPT-2's vocab.json and merges.txt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from llx.errors import BadInput
from llx.exporter.vocabulary.beside import (
    NAMES,
    OF_CLASS,
    Beside,
    SpecialToken,
    read_beside,
)
from llx.exporter.vocabulary.bpe import Prefix, Text, damaged, put_around, unreadable
from llx.exporter.vocabulary.ends import ends_of
from llx.exporter.vocabulary.tokenizer_model import read_tokenizer_model
from llx.exporter.vocabulary.words import gpt2_words
from llx.files import is_lfs_pointer, lfs_pointer
from llx.manifest import TextRecord
from llx.nearby import absence, is_broken_link
from llx.tokenizer import MOST_BYTES, PROBE, added_around, guarded, parse_tokenizer
from llx.typed import optional_json

JSON, MODEL, VOCAB, MERGES = "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"
GPT2 = "GPT2Tokenizer"
# What transformers' `clean_up_tokenization` takes out of a decoded text, in this order.
CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Found:
    """A tokenizer as its own file has it."""

    path: Path
    tokenizer: Tokenizer
    record: TextRecord
    data: bytes  # the tokenizer.json that it is
    prepared_here: bool = False  # transformers prepares text otherwise than the tokenizer does
    pad: str = ""  # the token that its padding, which is switched off, would take


def read_folder(folder: Path, vocab: int | None = None) -> Text | None:
    """A folder's tokenizer, its special tokens and ends; None where there is none.

    `vocab` is the model's number of tokens. Raises `BadInput` where the tokenizer is damaged, or of
    a kind that llx does not read.
    """
    warnings: list[str] = []
    own = [folder / name for name in (JSON, MODEL, VOCAB)]
    broken = [path for path in own if is_broken_link(path)]
    if not any(path.is_file() for path in own):
        if not broken:
            return None
        raise BadInput(f"{broken[0]} {absence(broken[0])}", "mend the link, or copy the file there")
    warnings += [f"{path} {absence(path)}: it is not read" for path in broken]
    beside = read_beside(folder, warnings.append)
    found = _find(folder, vocab, beside)
    tokenizer = found.tokenizer
    highest = _highest(tokenizer)
    named = _named(found, beside)
    _add_special(found, beside, named, warnings.append)
    _follow_settings(found, beside, named, warnings.append)
    rows = _highest(tokenizer) + 1 if vocab is None else vocab
    if highest >= rows:
        warnings.append(
            f"the tokenizer of {folder} has tokens up to {highest}, and the model's end at "
            f"{rows - 1}: a text that uses the others is refused"
        )
    elif _highest(tokenizer) >= rows:
        warnings.append(_of_no_row(folder, tokenizer, named, rows))
    record = _record(found.record, named)
    known = ends_of(folder, tokenizer, record, rows, warnings.append)
    if not known:
        warnings.append(f"{folder} names no token at which text ends: generation goes on to -n")
    return Text(_bytes(found), replace(record, eos_ids=known), warnings=tuple(warnings))


def _highest(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def _of_no_row(
    folder: Path, tokenizer: Tokenizer, named: Mapping[str, SpecialToken], rows: int
) -> str:
    """What is told of tokens that are named beside a tokenizer, and that the model has none of."""
    of = {token.content: f", which is its {name}" for name, token in named.items()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True).items()
    token, i = min(((t, i) for t, i in vocabulary if i >= rows), key=lambda pair: pair[1])
    return (
        f"what lies beside the tokenizer of {folder} names {token[:40]!r}{of.get(token, '')}, and "
        f"its vocabulary has no such token: it becomes {i}, where the model's end at {rows - 1}, "
        "so the model never writes it, and a text that holds it is refused"
    )


def _find(folder: Path, vocab: int | None, beside: Beside) -> _Found:
    """The tokenizer's own file, read."""
    llama = beside.kind in OF_CLASS and beside.kind != GPT2
    if (folder / JSON).is_file():
        data = _read(folder / JSON)
        tokenizer = parse_tokenizer(data, folder / JSON)
        # Of a byte-level tokenizer transformers knows better than its class says.
        prepared = llama and b'"ByteLevel"' not in data
        return _Found(folder / JSON, tokenizer, TextRecord(), data, prepared, _pad(data))
    if (folder / MODEL).is_file():
        text = read_tokenizer_model(folder / MODEL, vocab, _prefix(beside))
        tokenizer = parse_tokenizer(text.tokenizer, folder / MODEL)
        return _Found(folder / MODEL, tokenizer, text.record, text.tokenizer, True)
    if beside.kind != GPT2:
        raise unreadable(folder / VOCAB, f"not said to be GPT-2's ({beside.kind or 'no class'})")
    tokenizer = _gpt2(folder, bool(beside.switch("add_prefix_space")))
    data = tokenizer.to_str().encode()
    return _Found(folder / VOCAB, parse_tokenizer(data, folder / VOCAB), TextRecord(), data)


def _pad(data: bytes) -> str:
    """The token that a tokenizer.json pads with, which transformers takes for `pad_token`."""
    padding = json.loads(data).get("padding")
    token = padding.get("pad_token") if isinstance(padding, dict) else None
    return token if isinstance(token, str) else ""


def _prefix(beside: Beside) -> Prefix | None:
    """Where tokenizer_config.json wants SentencePiece's space, if it says so."""
    space = beside.switch("add_prefix_space")
    if space is False:
        return "never"
    return "first" if beside.switch("legacy") is False else "always" if space else None


def _gpt2(folder: Path, add_prefix_space: bool) -> Tokenizer:
    """GPT-2's two files: tokens with their ids, and the pairs that are joined, the best first."""
    tokens = optional_json(folder / VOCAB)
    if not tokens or not all(type(i) is int and 0 <= i < 1 << 31 for i in tokens.values()):
        raise damaged(folder / VOCAB, "no object of tokens with their ids")
    if not (folder / MERGES).is_file():
        raise BadInput(
            f"{folder / MERGES} {absence(folder / MERGES)}", "download it, or a tokenizer.json"
        )
    try:
        lines = _read(folder / MERGES).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise damaged(folder / MERGES, "no UTF-8") from None
    lines = [line.rstrip("\r") for line in lines if not line.startswith("#version")]
    merges = [tuple(line.split(" ")) for line in lines if line]
    if any(len(pair) != 2 for pair in merges):
        raise damaged(folder / MERGES, "one of its merges is no pair")
    with guarded(f"{folder / MERGES} does not belong to {VOCAB}", "download both again"):
        pairs = [(pair[0], pair[1]) for pair in merges]
        tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=pairs))
    tokenizer.pre_tokenizer = gpt2_words(add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read(path: Path) -> bytes:
    """A file of moderate size. Raises `BadInput` where it cannot be read, or is a pointer."""
    if is_lfs_pointer(path):
        raise lfs_pointer(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise damaged(path, f"larger than {MOST_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror})", "check the file and its permissions"
        ) from None


def _named(found: _Found, beside: Beside) -> dict[str, SpecialToken]:
    """The special tokens that have a name, with those of the class that the vocabulary has."""
    usual = {} if found.path.name == JSON and not found.prepared_here else OF_CLASS
    of_class = usual.get(beside.kind, {}).items()
    has = found.tokenizer.token_to_id
    default = {name: SpecialToken(text) for name, text in of_class if has(text) is not None}
    if found.pad and "pad_token" not in beside.settings:
        default["pad_token"] = SpecialToken(found.pad, special=True)
    named = default | dict(beside.named)
    return {name: named[name] for name in (*NAMES, *named) if name in named}


def _add_special(
    found: _Found, beside: Beside, named: Mapping[str, SpecialToken], tell: Tell
) -> None:
    """Make special what is named as such: cut out of a text, and left out of a decoded one."""
    tokenizer = found.tokenizer
    own = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    names = {token.content for token in named.values()}
    # Where transformers has no normalizer, whether a token is normalized makes no difference.
    normalized = False if found.prepared_here else None
    wanted: dict[str, AddedToken] = {}
    for token in beside.added.values():
        if beside.decided or token.content not in own:
            special = bool(token.special) or token.content in names
            wanted[token.content] = token.added(special, normalized)
    if not beside.decided:
        for content, mine in own.items():
            if content in names and not mine.special:
                wanted[content] = _special(mine)
    settled = own.keys() | wanted.keys()
    for token in (*named.values(), *beside.extra):  # of two with one text the last counts
        if token.content not in settled:
            special = token.content in names or token.special is not False
            wanted[token.content] = token.added(special, normalized)
    changed = [t for t in wanted.values() if repr(own.get(t.content)) != repr(t)]
    with guarded(f"the tokenizer of {found.path} takes no more tokens", "use its own files"):
        tokenizer.add_tokens(changed)
    for i, token in beside.added.items():
        got = tokenizer.token_to_id(token.content)
        if got != i:
            tell(
                f"token {token.content[:40]!r} is {got} in {found.path}, and {i} by what lies "
                f"beside it: {got} is taken, as in transformers"
            )


def _special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _follow_settings(
    found: _Found, beside: Beside, named: Mapping[str, SpecialToken], tell: Tell
) -> None:
    """What tokenizer_config.json says of encoding and decoding, as far as transformers follows."""
    tokenizer, record = found.tokenizer, _record(found.record, named)
    bos, eos = beside.switch("add_bos_token"), beside.switch("add_eos_token")
    if found.path.name != JSON and (bos is not None or eos is not None):
        # A tokenizer.json says by itself what it puts around a text.
        tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1", [])
        first, last = map(tokenizer.token_to_id, (record.bos_token, record.eos_token))
        put_around(tokenizer, first if bos else None, last if eos else None)
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
        tell(f"{found.path} drops merges at random, which is for training: switched off")
    if beside.switch("split_special_tokens"):
        tell(
            "tokenizer_config.json has split_special_tokens: special tokens are found all the same"
        )
    _clean_up(tokenizer, beside, tell)
    _, behind = added_around(tokenizer, PROBE)
    if behind:
        words = " ".join(tokenizer.id_to_token(i) or str(i) for i in behind)
        tell(f"the tokenizer ends every text with {words}: a prompt too, as in transformers")


def _clean_up(tokenizer: Tokenizer, beside: Beside, tell: Tell) -> None:
    """Take spaces before punctuation out of what is decoded, where transformers does."""
    setting = "clean_up_tokenization_spaces"
    forced = beside.switch(f"{setting}_for_bpe_even_though_it_will_corrupt_output")
    if not beside.switch(setting) or (isinstance(tokenizer.model, models.BPE) and not forced):
        return
    if tokenizer.decoder is None:
        tell(f"tokenizer_config.json has {setting}: not followed, for want of a decoder")
        return
    steps = [decoders.Replace(text, text.strip() or text) for text in CLEANED]
    tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *steps])


def _record(record: TextRecord, named: Mapping[str, SpecialToken]) -> TextRecord:
    """The words of a chat template."""
    texts = {name: token.content for name, token in named.items()}
    return replace(
        record,
        bos_token=texts.pop("bos_token", record.bos_token),
        eos_token=texts.pop("eos_token", record.eos_token),
        special_tokens=texts,
    )


def _bytes(found: _Found) -> bytes:
    """The tokenizer.json: as it was, but for what changed beside the model's vocabulary.

    The library writes a vocabulary by its ids, and would lose tokens of one that repeats an id.
    """
    now = json.loads(found.tokenizer.to_str())
    was = json.loads(Tokenizer.from_buffer(found.data).to_str())
    dropout = now["model"].get("dropout") != was["model"].get("dropout")
    changed = {key: now[key] for key in now if key != "model" and now[key] != was[key]}
    if not changed and not dropout:
        return found.data
    document = json.loads(found.data)
    if dropout:
        document["model"]["dropout"] = None
    data = json.dumps(document | changed, ensure_ascii=False, separators=(",", ":")).encode()
    parse_tokenizer(data, found.path)
    return data
