"""A folder's tokenizer with what lies beside it: the ids and ends of transformers itself."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from llx.exporter.sources import open_source
from llx.exporter.vocabulary import read_folder, read_tokenizer_model
from llx.exporter.vocabulary.folder import CLEANED
from llx.tokenizer import decode, encode, parse_tokenizer
from tests.checkpoints import (
    TINY,
    byte_tokenizer,
    config_of,
    random_tensors,
    write_checkpoint,
    write_meta,
)
from tests.exporter.vocabularies import built, train


def transformers_of(folder):
    """What `AutoTokenizer` makes of a folder."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    return transformers.AutoTokenizer.from_pretrained(folder)


def write(folder, file, /, **values):
    (folder / file).write_text(json.dumps(values))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint without weights: config.json and a tokenizer of bytes, 300 of them."""
    write(tmp_path, "config.json", **config_of(TINY))
    byte_tokenizer(TINY.vocab).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


TEXTS = [
    "plain words, 12 of them",
    "a<end>b",
    "a<unused3>b",
    "a <unused3> b",
    "x<unused4>y<unused5>z",
    "<new>in front",
    "a<new> b<newer>c",
    "un<unused3>d",
    " <end>",
    "",
    "🙂 é",
]


def token(content, special=True, **flags):
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False} | flags
    return {"content": content, "special": special, **flags}


def typed(content, **flags):
    return {"__type": "AddedToken"} | token(content, **flags)


# tokenizer_config.json, special_tokens_map.json, added_tokens.json
BESIDE = {
    "nothing": ({}, None, None),
    "eos": ({"eos_token": "<end>"}, None, None),
    "eos with flags": ({"eos_token": typed("<end>", lstrip=True, rstrip=True)}, None, None),
    "all named": (
        {
            "eos_token": "<end>",
            "bos_token": "<unused3>",
            "pad_token": "<unused4>",
            "unk_token": "Q",
        },
        None,
        None,
    ),
    "a new pad": ({"pad_token": "<new>"}, None, None),
    "null": ({"eos_token": None, "pad_token": None}, None, None),
    "own name": ({"image_token": "<unused5>", "eos_token": "<end>"}, None, None),
    "additional": ({"additional_special_tokens": ["<unused3>", "<new>"]}, None, None),
    "extra": ({"extra_special_tokens": ["<unused3>", "<new>", "<newer>"]}, None, None),
    "extra by name": ({"extra_special_tokens": {"image_token": "<unused3>"}}, None, None),
    "decoder": ({"added_tokens_decoder": {"0": token("<end>")}}, None, None),
    "decoder of plain tokens": (
        {"added_tokens_decoder": {"0": token("<end>"), "260": token("<unused3>", special=False)}},
        None,
        None,
    ),
    "decoder with flags": (
        {
            "added_tokens_decoder": {
                "260": token("<unused3>", lstrip=True, single_word=True),
                "300": token("<new>", rstrip=True),
                "301": token("<newer>", special=False, normalized=True),
            },
            "eos_token": "<newer>",
        },
        None,
        None,
    ),
    "decoder out of order": (
        {"added_tokens_decoder": {"301": token("<newer>"), "300": token("<new>")}},
        None,
        None,
    ),
    "empty decoder and a map": ({"added_tokens_decoder": {}}, {"eos_token": "<end>"}, None),
    "map": ({}, {"eos_token": "<end>", "pad_token": token("<unused4>", lstrip=True)}, None),
    "map over config": ({"eos_token": "<unused4>"}, {"eos_token": "<end>"}, None),
    "map's additional": ({}, {"additional_special_tokens": ["<unused3>", "<new>"]}, None),
    "map's extra": (
        {"extra_special_tokens": ["<unused3>"]},
        {"extra_special_tokens": ["<unused4>"], "additional_special_tokens": ["<unused5>"]},
        None,
    ),
    "added": ({}, None, {"<new>": 300, "<newer>": 301}),
    "added and named": ({"pad_token": "<new>"}, {"eos_token": "<newer>"}, {"<new>": 300}),
}
# Of tokenizer.json itself.
STORED = {
    "as it is": {},
    "truncation": {
        "truncation": {
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        }
    },
    "padding": {
        "padding": {
            "strategy": {"Fixed": 32},
            "direction": "Left",
            "pad_to_multiple_of": 8,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<end>",
        }
    },
    "BOS and EOS": {
        "post_processor": json.loads(
            processors.TemplateProcessing(
                "<unused3> $A <unused4>", "$A $B", [("<unused3>", 260), ("<unused4>", 261)]
            ).__getstate__()
        )
    },
    "an added token": {
        "added_tokens": [{"id": 0} | token("<end>", special=False)],
    },
}


def assert_the_same(ours, theirs, texts=TEXTS):
    for text in texts:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert encode(ours, text, special) == ids, (text, special)
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert decode(ours, ids, skip) == expected, (text, skip)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("beside", BESIDE)
def test_a_tokenizer_json_is_read_as_transformers_reads_it(folder, beside, stored):
    config, mapped, added = BESIDE[beside]
    write(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **config)
    for name, values in (("special_tokens_map.json", mapped), ("added_tokens.json", added)):
        if values is not None:
            write(folder, name, **values)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | STORED[stored]))
    text, theirs = read_folder(folder, TINY.vocab), transformers_of(folder)
    ours = parse_tokenizer(text.tokenizer, path)
    assert ours.get_vocab() == theirs.get_vocab()
    assert_the_same(ours, theirs)
    named = dict(theirs.special_tokens_map)
    assert text.record.bos_token == named.pop("bos_token", "")
    assert text.record.eos_token == named.pop("eos_token", "")
    assert text.record.special_tokens | named == named | text.record.special_tokens
    if theirs.eos_token_id is not None and theirs.eos_token_id < TINY.vocab:
        assert theirs.eos_token_id in text.record.eos_ids
    assert len(text.warnings) == ("BOS" in stored) + (len(theirs) > TINY.vocab)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast"])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False, None])
@pytest.mark.parametrize("legacy", [False, True])
def test_sentencepieces_model_alone_follows_its_settings(tmp_path, llama, kind, bos, eos, legacy):
    write(tmp_path, "config.json", **config_of(replace(TINY, vocab=1500)))
    (tmp_path / "tokenizer.model").write_bytes(llama.read_bytes())
    settings = {"add_bos_token": bos, "legacy": legacy, "pad_token": "<pad>"}
    settings |= {} if eos is None else {"add_eos_token": eos}
    write(tmp_path, "tokenizer_config.json", tokenizer_class=kind, **settings)
    text, theirs = read_folder(tmp_path, 1500), transformers_of(tmp_path)
    ours = built(text)
    # After a special token SentencePiece has its space again, unless legacy is false: transformers'
    # own way to do without it shows in no text of words.
    texts = ["Hello", "the interpreter 12 é🙂", ""]
    texts += [] if legacy else ["<s>[INST] hi [/INST]", "a</s>b", "a</s> b", "x\n</s>\ny", "</s>"]
    for words in texts:
        for special in (True, False):
            expected = theirs(words, add_special_tokens=special)["input_ids"]
            assert encode(ours, words, special) == expected, words
    named = {"unk_token": "<unk>", "pad_token": "<pad>"}
    assert (text.record.eos_ids, text.record.special_tokens) == ((0, 2), named)


def test_sentencepieces_model_without_settings_begins_a_text_as_meta_does(tmp_path, llama):
    (tmp_path / "tokenizer.model").write_bytes(llama.read_bytes())
    assert read_folder(tmp_path, 1500).tokenizer == read_tokenizer_model(llama).tokenizer


def test_a_folder_of_meta_says_why_its_tokenizer_is_left_out(tmp_path):

    write_meta(tmp_path, TINY, random_tensors(TINY))
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    source = open_source(tmp_path, TINY)
    assert source.text() is None
    assert source.text() is None
    assert len(source.warnings) == 1
    assert "tokenizer.model is a Git LFS pointer" in source.warnings[0]


def test_a_unigram_model_is_left_out_and_a_tokenizer_json_beside_it_read(tmp_path):
    folder = write_checkpoint(tmp_path, tokenizer=False)
    (folder / "tokenizer.model").write_bytes(train(model_type="unigram", vocab_size=600))
    source = open_source(folder)
    assert source.text() is None
    assert "put a tokenizer.json beside it" in source.warnings[0]
    byte_tokenizer(TINY.vocab).save(str(folder / "tokenizer.json"))
    assert open_source(folder).text() is not None


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}, {"add_bos_token": True}])
def test_gpt_2s_two_files_are_read_as_transformers_reads_them(tmp_path, ranks, settings):
    from tests.exporter.vocabularies import byte_level_fields

    fields = byte_level_fields(ranks, "gpt-2")
    tokens = [*fields["add_token_list"], "<|endoftext|>"]
    write(tmp_path, "config.json", **config_of(replace(TINY, vocab=len(tokens))))
    write(tmp_path, "vocab.json", **{name: i for i, name in enumerate(tokens)})
    merges = "\n".join(fields["add_token_merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    write(tmp_path, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", **settings)
    text, theirs = read_folder(tmp_path, len(tokens)), transformers_of(tmp_path)
    texts = ["The interpreter's 12 words", "a<|endoftext|>b", " é🙂\n", ""]
    assert_the_same(built(text), theirs, texts)
    assert text.record.eos_ids == (0, len(tokens) - 1)


def ends_of(folder, **configs):
    for name, values in configs.items():
        write(folder, f"{name}.json", **values)
    return read_folder(folder, TINY.vocab)


@pytest.mark.parametrize(
    ("generation", "config", "eos", "expected"),
    [
        (None, 5, None, (5,)),
        (7, 5, None, (7,)),
        ([7, 8, 7], 5, None, (7, 8)),
        (None, [5, 6], "<unused3>", (5, 6, 260)),
        (7, 5, "<unused3>", (7, 260)),
        (None, None, "<unused3>", (260,)),
        (-1, 5, None, (5,)),
        ([None, 5], None, None, (5,)),
        (5.0, None, None, (5,)),
        ("5", None, None, (5,)),
        (5.5, 6, None, (6,)),
        (True, 6, None, (6,)),
        ([6, 128009], None, None, (6,)),
        ({"a": 1}, [[5]], "<unused3>", (260,)),
        (None, None, None, ()),
        (10**30, None, "<end>", (0,)),
    ],
)
def test_ends_are_found_wherever_they_are_named(folder, generation, config, eos, expected):
    text = ends_of(
        folder,
        generation_config={"eos_token_id": generation},
        config={"eos_token_id": config},
        tokenizer_config={"eos_token": eos},
    )
    assert text.record.eos_ids == expected
    odd = not expected or not all(
        type(i) is int and 0 <= i < TINY.vocab
        for value in (generation, config)
        for i in (value if isinstance(value, list) else [] if value is None else [value])
    )
    told = [line for line in text.warnings if "eos_token_id" in line or "names no token" in line]
    if odd and generation not in (5.0, "5"):
        assert told
    else:
        assert not told


@pytest.mark.parametrize("where", ["generation_config", "special_tokens_map"])
def test_a_file_beside_that_is_no_json_is_told(folder, where):
    (folder / f"{where}.json").write_text("{")
    write(folder, "tokenizer_config.json", eos_token="<unused3>")
    if where == "generation_config":
        text = read_folder(folder, TINY.vocab)
        assert text.record.eos_ids == (0, 260)
        assert "not readable JSON" in text.warnings[0]
    else:
        save_file(random_tensors(TINY), folder / "model.safetensors")
        source = open_source(folder)
        assert source.text() is None
        assert "special_tokens_map.json is not readable JSON" in source.warnings[0]


def test_dropout_is_switched_off(folder):
    tokenizer = byte_tokenizer(TINY.vocab)
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(folder / "tokenizer.json"))
    text = read_folder(folder, TINY.vocab)
    assert built(text).model.dropout is None
    assert "drops merges at random" in text.warnings[0]


@pytest.mark.parametrize("clean", [True, False, None])
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("model", ["BPE", "WordPiece"])
def test_spaces_are_cleaned_up_where_transformers_does(folder, clean, forced, model):
    from tokenizers import decoders

    if model == "WordPiece":
        words = ["[UNK]", *"abcdefghijklmnopqrstuvwxyz.,!?'", "it", "n't", "'s"]
        tokenizer = Tokenizer(
            models.WordPiece(vocab={w: i for i, w in enumerate(words)}, unk_token="[UNK]")
        )
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        tokenizer.save(str(folder / "tokenizer.json"))
    settings = {} if clean is None else {"clean_up_tokenization_spaces": clean}
    settings["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = forced
    write(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **settings)
    ours, theirs = built(read_folder(folder, TINY.vocab)), transformers_of(folder)
    text = "a . b ? c ! it , d ' e n't 's"
    assert all(part.strip() in text for part in CLEANED[:6])
    ids = theirs(text)["input_ids"]
    assert decode(ours, ids) == theirs.decode(ids)


def test_more_tokens_than_the_model_has_are_told(folder):
    tokenizer = byte_tokenizer(TINY.vocab)
    tokenizer.add_special_tokens([AddedToken("<x>", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = read_folder(folder, TINY.vocab)
    assert "has tokens up to 300, and the model's end at 299" in text.warnings[0]
    assert not read_folder(folder, TINY.vocab + 1).warnings


def test_an_end_that_the_vocabulary_has_not_is_called_by_its_name(folder):
    write(folder, "tokenizer_config.json", eos_token="<gone>")
    told = read_folder(folder, TINY.vocab).warnings
    assert any("names '<gone>', which is its eos_token" in line for line in told)
    assert not any("has tokens up to" in line for line in told)


def test_an_end_of_the_tokenizer_that_the_configuration_does_not_name_is_told(folder):
    write(folder, "generation_config.json", eos_token_id=[1, 2])
    write(folder, "tokenizer_config.json", eos_token="<end>")
    text = read_folder(folder, TINY.vocab)
    assert text.record.eos_ids == (1, 2, 0)
    (told,) = text.warnings
    assert "ends at token 0 ('<end>'), the tokenizer's own end, too" in told
    assert "names 1, 2 alone" in told
    write(folder, "generation_config.json", eos_token_id=[1, 0])
    assert not read_folder(folder, TINY.vocab).warnings
