"""Generation on a session whose next token is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llx.bench.generate import Sampling, chat_prompt, choose, generate
from llx.bench.sessions.fake import FakeSession
from llx.bench.text import tokenizer_of
from llx.errors import BadInput, NotExported
from llx.exporter.vocabulary.bpe import Vocabulary, sentencepiece_tokenizer
from llx.graphs.contract import Limits
from llx.manifest import CHAT_TEMPLATE
from tests.checkpoints import byte_tokenizer
from tests.conftest import export_tiny, vouched

TOKENIZER = byte_tokenizer(300)
LIMITS = Limits(capacity=96, max_new_tokens=16, max_rows=4, vocab=300)


def continued(prompt, ends=(), most=5, capacity=96):
    limits = Limits(capacity=capacity, max_new_tokens=16, max_rows=1, vocab=300)
    session = FakeSession(limits)
    return list(generate(session, TOKENIZER, prompt, ends, most, Sampling())), session


def test_text_comes_piece_by_piece():
    assert continued("a")[0] == ["b", "c", "d", "e", "f"]


def test_the_space_before_an_answers_first_word_is_kept():
    vocabulary = Vocabulary(
        path=Path("x"),
        tokens=["?", "▁", "a", "b", "▁a", "▁b"],
        kinds=[2, 1, 1, 1, 1, 1],
        bos=None,
        eos=None,
        add_bos=False,
    )
    tokenizer = sentencepiece_tokenizer(
        vocabulary, [0.0] * 6, byte_fallback=False, prefix="always", squeeze=False
    )
    limits = Limits(capacity=96, max_new_tokens=16, max_rows=1, vocab=6)
    assert [*generate(FakeSession(limits), tokenizer, "a", (), 1, Sampling())] == [" b"]


def test_an_end_token_ends_the_text():
    assert continued("a", ends=(TOKENIZER.token_to_id("d"),))[0] == ["b", "c"]


def test_text_ends_where_the_cache_is_full():
    pieces, session = continued("abc", most=50, capacity=8)
    assert pieces == ["d", "e", "f", "g", "h"]
    assert max(int(positions.max()) for _, positions, _ in session.steps) <= 7


def test_a_prompt_longer_than_a_step_is_cut():
    _, session = continued("a" * 40, most=1)
    assert [tokens.shape[1] for tokens, _, _ in session.steps] == [16, 16, 8]


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(BadInput, match=r"96 tokens, and the cache 96 positions.*--context"):
        continued("a" * 96)


def test_an_empty_prompt_is_refused_as_what_it_is():
    with pytest.raises(BadInput, match=r"the prompt is empty.*begin the text with a word"):
        continued("")


def test_greedy_takes_the_likeliest_and_sampling_follows_the_probabilities():
    logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))
    rng = np.random.default_rng(0)
    assert choose(logits, Sampling(), rng) == 1
    drawn = [choose(logits, Sampling(temperature=1.0), rng) for _ in range(4000)]
    assert np.bincount(drawn) / 4000 == pytest.approx([0.1, 0.6, 0.3], abs=0.03)
    nucleus = {choose(logits, Sampling(temperature=1.0, top_p=0.8), rng) for _ in range(500)}
    assert nucleus == {1, 2}
    only = {choose(logits, Sampling(temperature=1.0, top_p=0.5), rng) for _ in range(100)}
    assert only == {1}


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(BadInput):
        Sampling(**bad)


def test_the_chat_template_asks_the_question(tiny):
    assert chat_prompt(tiny, "why?") == "<user>why?<answer>"


def test_a_hostile_chat_template_cannot_reach_python(tmp_path):
    artifact = export_tiny(tmp_path)
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (artifact.folder / CHAT_TEMPLATE).write_text(hostile)
    with pytest.raises(BadInput, match="the chat template fails"):
        chat_prompt(vouched(artifact, CHAT_TEMPLATE), "why?")


def test_an_artifact_without_a_template_says_so(tmp_path):
    artifact = export_tiny(tmp_path)
    del artifact.manifest.files[CHAT_TEMPLATE]
    with pytest.raises(NotExported, match="beside the checkpoint and export again"):
        chat_prompt(artifact, "why?")


def test_the_artifacts_tokenizer_is_the_checkpoints(tiny):
    assert tokenizer_of(tiny).encode("abc").ids == TOKENIZER.encode("abc").ids


@pytest.mark.parametrize(("most", "told"), [(5, 0), (6, 0), (7, 1), (100, 1)])
def test_a_text_that_ends_because_the_cache_is_full_says_so(most, told):
    session = FakeSession(Limits(capacity=16, max_new_tokens=16, max_rows=1, vocab=300))
    news: list[str] = []
    pieces = list(generate(session, TOKENIZER, "a" * 10, (), most, Sampling(), tell=news.append))
    assert len(pieces) == min(most, 6)
    assert len(news) == told
    assert all("the cache of 16 positions is full" in line for line in news)
