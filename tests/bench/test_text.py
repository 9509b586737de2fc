"""Text of tokens as they come: together the pieces are what decoding all at once says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.bench.text import PieceDecoder
from llx.exporter.vocabulary import read_tokenizer_model
from tests.checkpoints import byte_tokenizer
from tests.exporter.vocabularies import built, train

BYTES = byte_tokenizer(300)
PROMPTS = ["Hi", "a b  ", "漢", "", "\n"]
TEXTS = [
    "🙂",
    "héé 漢字🙂!",
    "  two  spaces ",
    "a\n\n b",
    "\u200d👩\u200d👩",
    "\ufffd",
    "x \ufffd y",
    "",
]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """SentencePiece, which falls back to bytes."""
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(train(vocab_size=600))
    return built(read_tokenizer_model(path))


def said(tokenizer, prompt, tokens):
    """What each token adds, and the rest."""
    decoder = PieceDecoder(tokenizer, prompt)
    return [*map(decoder.step, tokens), decoder.rest()]


def whole(tokenizer, prompt, tokens):
    """The continuation, out of a decoding of everything."""
    return tokenizer.decode([*prompt, *tokens])[len(tokenizer.decode([*prompt])) :]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_the_pieces_are_the_text(pieces, kind, prompt, text):
    tokenizer = BYTES if kind == "bytes" else pieces
    before = tokenizer.encode(prompt).ids
    after = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(said(tokenizer, before, after)) == whole(tokenizer, before, after)


@given(text=st.text(max_size=30), prompt=st.text(min_size=1, max_size=10))
@settings(max_examples=150, deadline=None)
def test_the_pieces_of_any_text_are_the_text(pieces, text, prompt):
    for tokenizer in (BYTES, pieces):
        before = tokenizer.encode(prompt).ids
        after = tokenizer.encode(text, add_special_tokens=False).ids
        assert "".join(said(tokenizer, before, after)) == whole(tokenizer, before, after)


@given(tokens=st.lists(st.integers(0, 310), max_size=30))
@settings(max_examples=150, deadline=None)
def test_bytes_in_any_order_are_what_decoding_them_at_once_says(tokens):
    before = BYTES.encode("Hi").ids
    assert "".join(said(BYTES, before, tokens)) == whole(BYTES, before, tokens)


@given(tokens=st.lists(st.integers(0, 650), max_size=40))
@settings(max_examples=150, deadline=None)
def test_pieces_in_any_order_raise_nothing_and_are_not_held_back_for_long(pieces, tokens):
    """A run of bytes is decoded as a whole: what was said of its beginning cannot be taken back."""
    words = [pieces.token_to_id("▁the")] * 4
    steps = said(pieces, pieces.encode("Hi").ids, [*tokens, *words])
    assert "".join(steps).endswith(" the the the")
    assert steps[-1] == ""


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_text_that_begins_in_the_middle_of_a_character_ends_well(pieces, kind):
    tokenizer = BYTES if kind == "bytes" else pieces
    tokens = tokenizer.encode("🙂 x", add_special_tokens=False).ids[-4:]
    assert "".join(said(tokenizer, tokenizer.encode("Hi").ids, tokens)).endswith(" x")


def test_bytes_that_are_no_character_are_not_waited_for():
    steps = said(BYTES, BYTES.encode("Hi").ids, [BYTES.token_to_id("ÿ")] * 30)
    assert "".join(steps[:-1]) == "\ufffd" * 27
    assert steps[-1] == "\ufffd" * 3
