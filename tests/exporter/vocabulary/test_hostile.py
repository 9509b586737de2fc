"""Folders whose files hold anything at all: a tokenizer that works, or a line that says why not."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.vocabulary import read_folder, read_gguf
from llx.tokenizer import decode, encode, parse_tokenizer
from tests.checkpoints import TINY, byte_tokenizer
from tests.exporter.vocabulary.test_damage import gguf_fields

ANYTHING = [
    None,
    True,
    False,
    -1,
    0,
    1,
    300,
    2**32,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "a",
    "<end>",
    "\ud800",
    "(",
    "(a+)+$",
    "x" * 5000,
    [],
    [None],
    ["a", 1],
    [[[[]]]],
    {},
    {"a": None},
    {"content": 5},
    {"type": "Sequence"},
]
TEXTS = ["", "a b", "<end>é🙂\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]


def stored():
    """A tokenizer.json with a stage of every kind, and two tokens of one id."""
    whole = json.loads(byte_tokenizer(300).to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = {"id": "<end>", "ids": [0], "tokens": ["<end>"]}
    return whole | {
        "model": whole["model"]
        | {"merges": [["a", "b"]], "vocab": whole["model"]["vocab"] | {"ab": 299}},
        "added_tokens": [{"id": 0, "content": "<end>", "special": True} | flags],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Prepend", "prepend": "a"},
                {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "b"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                whole["pre_tokenizer"],
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<end>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<end>": special},
        },
        "truncation": {
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 1,
        },
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<end>",
        },
    }


TOKEN = {"content": "<x>", "lstrip": False, "rstrip": False, "normalized": False, "special": True}
BESIDE = {
    "tokenizer_config.json": {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "add_prefix_space": True,
        "clean_up_tokenization_spaces": True,
        "split_special_tokens": False,
        "bos_token": "<end>",
        "eos_token": {"__type": "AddedToken", **TOKEN},
        "image_token": "<y>",
        "added_tokens_decoder": {"300": dict(TOKEN)},
        "extra_special_tokens": ["<z>"],
        "additional_special_tokens": ["<z>", dict(TOKEN)],
    },
    "special_tokens_map.json": {
        "eos_token": "<end>",
        "pad_token": dict(TOKEN),
        "additional_special_tokens": ["<z>"],
        "extra_special_tokens": ["<z>"],
    },
    "added_tokens.json": {"<w>": 300, "<v>": 301},
    "generation_config.json": {"eos_token_id": [0, 5]},
    "config.json": {"eos_token_id": 7},
}


def places(value, at=()):
    """Every place in a JSON value, as the keys that lead there; of a vocabulary the first few."""
    yield at
    if isinstance(value, dict):
        for key in [*value][: 4 if at and at[-1] == "vocab" else None]:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*at, i))


def replaced(value, at, new):
    """A copy with another value at a place; `...` takes the place away."""
    if not at:
        return None if new is ... else new
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


def attempt(call, *arguments):
    """What a call gives, or the one line that refuses it."""
    try:
        return call(*arguments), ""
    except BadInput as error:
        line = str(error)
    assert "\n" not in line
    return None, line


def assert_works_or_says_why(folder):
    """Nothing but `BadInput` leaves the reader, and what it read is told of or works."""
    text, refused = attempt(read_folder, folder, TINY.vocab)
    if refused:
        assert str(folder) in refused
        return False
    tokenizer = parse_tokenizer(text.tokenizer, folder / "tokenizer.json")
    assert all(type(i) is int and 0 <= i < TINY.vocab for i in text.record.eos_ids)
    assert not any("\n" in line for line in text.warnings)
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    for words in TEXTS:
        ids, _ = attempt(encode, tokenizer, words)
        attempt(decode, tokenizer, ids or [])
    return True


def fresh(folder, beside=()):
    for file in folder.iterdir():
        file.unlink()
    (folder / "tokenizer.json").write_text(json.dumps(stored()))
    for file in beside:
        (folder / file).write_text(json.dumps(BESIDE[file]))


SOME = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_what_is_changed_below_is_read_as_it_stands(tmp_path):
    fresh(tmp_path, BESIDE)
    assert assert_works_or_says_why(tmp_path)


@given(data=st.data())
@SOME
def test_any_value_of_a_tokenizer_json_may_be_anything(tmp_path, data):
    fresh(tmp_path)
    at = data.draw(st.sampled_from([*places(stored())]))
    new = data.draw(st.sampled_from([..., *ANYTHING]))
    (tmp_path / "tokenizer.json").write_text(json.dumps(replaced(stored(), at, new)))
    assert_works_or_says_why(tmp_path)


@given(data=st.data())
@SOME
def test_any_value_of_a_file_beside_may_be_anything(tmp_path, data):
    fresh(tmp_path, BESIDE)
    file = data.draw(st.sampled_from([*BESIDE]))
    at = data.draw(st.sampled_from([*places(BESIDE[file])]))
    new = data.draw(st.sampled_from([..., *ANYTHING]))
    (tmp_path / file).write_text(json.dumps(replaced(BESIDE[file], at, new)))
    if data.draw(st.booleans()):  # else no other file is asked
        config = {k: v for k, v in BESIDE["tokenizer_config.json"].items() if "decoder" not in k}
        if file != "tokenizer_config.json":
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert_works_or_says_why(tmp_path)


@given(data=st.data())
@SOME
def test_a_tokenizer_json_may_be_cut_and_flipped(tmp_path, data):
    fresh(tmp_path)
    raw = bytearray((tmp_path / "tokenizer.json").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    (tmp_path / "tokenizer.json").write_bytes(raw[:end])
    assert_works_or_says_why(tmp_path)


@pytest.mark.slow
def test_every_value_of_every_file_may_be_anything(tmp_path, capsys):
    counts = {"read": 0, "refused": 0}
    files = {"tokenizer.json": stored(), **BESIDE}
    for file, whole in files.items():
        fresh(tmp_path, BESIDE)
        for at in places(whole):
            for new in (..., *ANYTHING):
                (tmp_path / file).write_text(json.dumps(replaced(whole, at, new)))
                counts["read" if assert_works_or_says_why(tmp_path) else "refused"] += 1
    with capsys.disabled():
        print(f"{sum(counts.values())} changed files: {counts}")


@pytest.mark.parametrize("name", [*gguf_fields(), *(
    f"tokenizer.ggml.{name}"
    for name in (
        "pre", "merges", "bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id",
        "padding_token_id", "add_bos_token", "add_eos_token", "add_space_prefix",
        "remove_extra_whitespaces",
    )
), "tokenizer.chat_template"])  # fmt: skip
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_any_field_of_a_gguf_may_be_anything(tmp_path, name, model):
    for value in ANYTHING:
        fields = gguf_fields(model=model, pre="gpt-2", merges=["a b"]) | {name: value}
        text, refused = attempt(read_gguf, tmp_path / "x.gguf", fields, 262)
        if refused:
            continue
        tokenizer = parse_tokenizer(text.tokenizer, tmp_path)
        assert all(0 <= i < 262 for i in text.record.eos_ids)
        for words in TEXTS:
            decode(tokenizer, encode(tokenizer, words))
