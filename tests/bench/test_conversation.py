"""Turns of a conversation: what the cache holds is what the chat template writes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import llx
from llx.bench.chat import ChatTemplate
from llx.bench.conversation import Conversation
from llx.bench.generate import Turn, continued
from llx.bench.sampling import Sampling, StopTexts
from llx.bench.sessions import Built, engine_named
from llx.bench.sessions.fake import FakeSession
from llx.bench.text import tokenizer_of
from llx.errors import BadInput
from llx.graphs.contract import Limits
from tests.bench.test_chat import with_template  # noqa: F401
from tests.checkpoints import byte_tokenizer, dice
from tests.conversations import FAMILIES, NOW, applied

TOKENIZER = byte_tokenizer(300)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
QUESTIONS = ("Why?", " It's é 🦙\n", "a b c", "And so?")
# What earlier turns look like depends on how many there are, and on which is the last.
CHANGING = """\
{{ messages | length }}{% for m in messages %}<{{ m.role }}>\
{{ m.content if loop.last else m.content | trim | upper }}<end>{% endfor %}<assistant>"""
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
TURNS = {name: FAMILIES[name] for name in ("llama 2", "llama 3", "chatml", "thinking")}
TURNS["changing"] = CHANGING


class Saying(FakeSession):
    """A session whose most likely tokens are drawn from a seed: they spell anything at all."""

    def logits(self):
        spread = dice(int(self._logits.sum() * 1e3) % 1000).standard_normal(300)
        return self._logits + 9 * spread.astype(np.float32)[None, None]


def conversation(artifact, session=None, capacity=2000, context=None, **options):
    limits = Limits(capacity=capacity, max_new_tokens=16, max_rows=1, vocab=300)
    session = session or FakeSession(limits)
    return (
        Conversation(
            session,
            TOKENIZER,
            ChatTemplate(artifact, now=NOW),
            **{"tokens": 6, "context": context, **options},
        ),
        session,
    )


def held(session, count):
    """The tokens that stand in a session's cache."""
    return [int(token) for token in session._cache[0, :count]]


@pytest.mark.parametrize("family", TURNS)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_cache_holds_what_transformers_writes_of_the_whole_conversation(
    with_template,  # noqa: F811
    family,
    system,
):
    pytest.importorskip("transformers")
    artifact = with_template(TURNS[family], **SPECIAL)
    limits = Limits(capacity=2000, max_new_tokens=16, max_rows=1, vocab=300)
    talk, session = conversation(artifact, Saying(limits), system=system)
    with talk:
        for question in QUESTIONS:
            pieces = talk.ask(question)
            messages = [*talk.messages, {"role": "user", "content": question}]
            wanted = applied(TURNS[family], messages, SPECIAL, add_generation_prompt=True)
            ids = TOKENIZER.encode(wanted, add_special_tokens=False).ids
            first = next(pieces)
            turn_ids = list(talk.cached)
            assert turn_ids[: len(ids)] == ids
            assert held(session, len(turn_ids)) == turn_ids
            answer = first + "".join(pieces)
            assert talk.messages == [*messages, {"role": "assistant", "content": answer}]
            # The last token of an answer is not fed before the next turn.
            assert list(talk.cached) == [*ids, *talk.turns[-1].tokens[:-1]]
            assert held(session, len(talk.cached)) == list(talk.cached)


def test_only_new_tokens_are_prefilled(with_template):  # noqa: F811
    talk, session = conversation(with_template(PLAIN))
    assert "".join(talk.ask("a")) == "?@ABCD"  # what follows on `>`
    before = len(talk.cached)
    session.steps.clear()
    "".join(talk.ask("b"))
    first = session.steps[0][1][0, 0]
    assert first == before, "the answer is in the cache but for its last token"
    assert talk.turns[-1].prefilled == talk.turns[-1].prompt - before < talk.turns[-1].prompt
    assert session.resets == 1


def test_a_template_that_changes_what_was_said_is_prefilled_from_the_first_difference(
    with_template,  # noqa: F811
):
    talk, session = conversation(with_template("same" + CHANGING))
    "".join(talk.ask("a"))
    session.steps.clear()
    "".join(talk.ask("b"))
    assert session.steps[0][1][0, 0] == len("same")


@pytest.mark.parametrize("engine", ["torch", "ort", "openvino"])
def test_a_kept_cache_answers_as_one_that_is_filled_anew(tiny, engine):
    chosen = engine_named(engine)
    chosen.require()
    tokenizer, sampling = tokenizer_of(tiny), Sampling()
    session, again = (chosen.open(tiny, 1, Built()) for _ in range(2))
    talk, _ = conversation(tiny, session, context=128, tokens=3)
    for question in ("hi", "yes"):
        "".join(talk.ask(question))
        turn = talk.turns[-1]
        ids, fresh = list(talk.cached[: turn.prompt]), Turn()
        again.reset()
        rng, stops = np.random.default_rng(0), StopTexts(())
        list(continued(again, tokenizer, [], ids, (), 3, sampling, rng, stops, fresh))
        assert turn.tokens == fresh.tokens
        assert (turn.prefilled < turn.prompt) == (question != "hi")
    again.close()
    talk.close()


def test_a_question_that_does_not_fit_changes_nothing_and_says_what_to_do(tiny):
    talk, session = conversation(tiny, capacity=60, context=128)
    "".join(talk.ask("a"))
    messages, cached, steps = talk.messages, talk.cached, len(session.steps)
    with pytest.raises(
        BadInput,
        match=r"has \d+ tokens, and the cache 60 positions: .*/reset, or .*--context, up to 128",
    ):
        talk.ask("b" * 40)
    assert (talk.messages, talk.cached, len(session.steps)) == (messages, cached, steps)
    assert "".join(talk.ask("c"))
    talk.reset()
    with pytest.raises(BadInput, match=r"the question has \d+ tokens.*: shorten it"):
        talk.ask("b" * 90)


def test_no_context_is_suggested_beyond_the_models_own(tiny):
    talk, _ = conversation(tiny, capacity=40, context=40)
    "".join(talk.ask("a"))
    with pytest.raises(BadInput, match="/reset, since the model itself knows no more positions"):
        talk.ask("b" * 40)


def test_an_answer_that_fills_the_cache_says_so_and_can_be_reset(tiny):
    news: list[str] = []
    talk, _ = conversation(tiny, capacity=24, context=24, tokens=50, tell=news.append)
    "".join(talk.ask("a"))
    assert talk.turns[-1].ended == "full cache"
    assert news == [
        "the text ends here because the cache of 24 positions is full, which are all that the "
        "model knows"
    ]
    talk.reset()
    assert talk.messages == []
    assert talk.cached == ()
    assert "".join(talk.ask("a"))


def test_after_a_reset_the_same_questions_have_the_same_answers(tiny):
    talk, _ = conversation(tiny, sampling=Sampling(temperature=2.0, seed=3), system="s")
    answers = []
    for _ in range(2):
        answers.append(["".join(talk.ask(question)) for question in "abc"])
        talk.reset()
    assert answers[0] == answers[1]
    assert talk.messages == [{"role": "system", "content": "s"}]


def test_an_answer_ends_before_a_stop_text_and_stands_like_that_in_the_conversation(tiny):
    talk, _ = conversation(tiny, stop=["BC"])
    assert "".join(talk.ask("a")) == "?@A"
    assert talk.turns[-1].ended == "stop text"
    assert talk.messages[-1] == {"role": "assistant", "content": "?@A"}


def test_an_answer_that_is_stopped_or_not_read_on_stands_as_far_as_it_came(tiny):
    talk, _ = conversation(tiny)
    told: list[str] = []
    for piece in talk.ask("a", stopped=lambda: len(told) == 2):
        told.append(piece)
    assert talk.messages[-1]["content"] == "".join(told) == "?@"
    assert talk.turns[-1].ended == "stopped"
    unread = talk.ask("b")
    next(unread)
    assert "".join(talk.ask("c"))
    assert [m["content"] for m in talk.messages[2:5]] == ["b", "?", "c"]
    assert list(unread) == []


def test_a_question_that_is_stopped_before_its_answer_begins_was_not_asked(tiny):
    talk, session = conversation(tiny)
    assert list(talk.ask("a" * 40, stopped=lambda: True)) == []
    assert talk.messages == []
    assert len(session.steps) == 1
    assert list(talk.cached) == held(session, 16)
    assert "".join(talk.ask("a" * 40))


def test_it_says_what_an_answer_took(tiny):
    talk, _ = conversation(tiny)
    "".join(talk.ask("a"))
    turn = talk.turns[-1]
    assert (len(turn.tokens), turn.decoded, turn.prefilled) == (6, 5, turn.prompt)
    assert turn.ttft_ns > 0
    assert turn.tok_per_s > 0
    assert turn.ended == "most tokens"


def test_a_closed_conversation_says_so(tiny):
    talk, session = conversation(tiny)
    talk.close()
    talk.close()
    assert session.closed
    assert repr(talk) == "<llx.Conversation: closed>"
    for act in (lambda: talk.ask("a"), talk.reset):
        with pytest.raises(BadInput, match="is closed"):
            act()


def test_from_python_it_is_a_conversation_over_one_engine(judged):
    with llx.chat(judged, engine="torch", tokens=4, system="Be brief.", top_k=3) as talk:
        assert isinstance("".join(talk.ask("hello")), str)
        assert [message["role"] for message in talk.messages] == ["system", "user", "assistant"]
        assert "3 messages" in repr(talk)


def test_a_template_that_leaves_the_system_prompt_out_is_told_of(with_template):  # noqa: F811
    news: list[str] = []
    artifact = with_template(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    llx.chat(artifact, engine="torch", system="Be brief.", tell=news.append).close()
    assert news == ["this chat template leaves the system prompt out: the model is not told it"]


def test_a_template_that_fails_is_known_before_a_model_is_loaded(with_template, monkeypatch):  # noqa: F811
    opened: list[int] = []
    monkeypatch.setattr(
        "llx.api.chat.engine_named", lambda _: SimpleNamespace(require=lambda: opened.append(1))
    )
    with pytest.raises(BadInput, match="the chat template fails"):
        llx.chat(with_template("{{ 1 // 0 }}"), engine="torch")
    assert opened == []
