"""Conversations in the words of an artifact's template, as transformers has them."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from datetime import datetime

import pytest

import llx
from llx.artifact import Artifact, open_artifact
from llx.bench.chat import ChatTemplate, ConversationRefused, chat_prompt, render_chat
from llx.errors import BadInput, NotExported
from llx.manifest import CHAT_TEMPLATE
from llx.templates import MOST_TEMPLATE_BYTES
from tests.conftest import vouched
from tests.conversations import CONVERSATIONS, FAMILIES, NOW, applied

U = {"role": "user", "content": "?"}


@pytest.fixture
def with_template(tiny, tmp_path):
    """The tiny artifact with another chat template, and other words for it."""

    def made(template, **text):
        folder = tmp_path / "artifact"
        shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
        data = template if isinstance(template, bytes) else template.encode()
        (folder / CHAT_TEMPLATE).write_bytes(data)
        artifact = open_artifact(tiny.folder)
        artifact = vouched(Artifact(folder, artifact.manifest), CHAT_TEMPLATE)
        record = replace(artifact.manifest.text, **text)
        return Artifact(folder, replace(artifact.manifest, text=record))

    return made


TOKENS = "[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ cls_token is defined }}]"


def test_a_template_knows_the_special_tokens_that_are_set_and_no_other(with_template):
    def seen(**text):
        artifact = with_template(TOKENS + "{{ bos_token is defined }}", **text)
        return render_chat(artifact, [U])

    assert seen(bos_token="", eos_token="") == "[|||False]False"
    assert seen(bos_token="<s>", eos_token="</s>") == "[<s>|</s>||False]True"
    more = {"pad_token": "<pad>", "cls_token": "<cls>", "sep_token": ""}
    assert seen(bos_token="<s>", eos_token="", special_tokens=more) == "[<s>||<pad>|True]True"


def test_a_conversation_is_no_special_token(with_template):
    artifact = with_template("{{ messages | length }}", special_tokens={"messages": "x"})
    assert render_chat(artifact, [U]) == "1"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_conversation_reads_as_in_transformers(with_template, family, add_generation_prompt):
    pytest.importorskip("transformers")
    artifact = with_template(FAMILIES[family], bos_token="<s>", eos_token="</s>")
    template = ChatTemplate(artifact, now=NOW)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    for messages in CONVERSATIONS.values():
        wanted = applied(
            FAMILIES[family], messages, special, add_generation_prompt=add_generation_prompt
        )
        if isinstance(wanted, str):
            assert template.render(messages, add_generation_prompt) == wanted
        else:
            with pytest.raises(BadInput):
                template.render(messages, add_generation_prompt)
    template.close()


# The word that a family's template has for it.
THINKERS = {"qwen 3": "enable_thinking", "smollm 3": "enable_thinking", "granite 3": "thinking"}


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("family", THINKERS)
def test_whether_to_think_is_told_by_the_templates_own_word(with_template, family, thinking):
    pytest.importorskip("transformers")
    artifact = with_template(FAMILIES[family], bos_token="<s>", eos_token="</s>")
    said = {} if thinking is None else {THINKERS[family]: thinking}
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    template, told = ChatTemplate(artifact, now=NOW, thinking=thinking), []
    for messages in (CONVERSATIONS["u"], CONVERSATIONS["uau"]):
        wanted = applied(FAMILIES[family], messages, special, add_generation_prompt=True, **said)
        template.tell_of_thinking(messages, told.append)
        assert template.render(messages) == wanted
    template.close()
    assert told == []


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("family", ["llama 3", "mistral", "deepseek r1", "phi 3"])
def test_a_template_that_knows_nothing_of_thinking_is_said_to(with_template, family, thinking):
    artifact, told = with_template(FAMILIES[family], bos_token="<s>", eos_token="</s>"), []
    prompt = chat_prompt(artifact, "Why?", "2026-03-09", thinking, told.append)
    assert prompt == chat_prompt(artifact, "Why?", "2026-03-09")
    (line,) = told
    assert line.endswith(f"--{'' if thinking else 'no-'}thinking changes nothing")


def test_without_a_chat_template_nothing_is_told_to_think(tiny):
    for thinking, option in ((True, "--thinking"), (False, "--no-thinking")):
        with pytest.raises(BadInput, match=f"^{option} is what a chat template is told"):
            llx.generate(tiny, "Why?", thinking=thinking)


PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
OPENED = {
    **FAMILIES,
    "plain": PLAIN,
    "trims": PLAIN.replace("m.content", "m.content | trim"),
    "trims the left": PLAIN.replace("m.content", "m.content.lstrip()"),
    "shouts": PLAIN.replace("m.content", "m.content | upper"),
    "drops": "{% for m in messages[:-1] %}{{ m.content }}{% endfor %}",
    "twice": PLAIN + PLAIN,
    "content first": "{{ messages[-1].content }} ends in {{ messages[0].content }}e",
}
LAST = ("e", "end", "<end>", "user", "", " ", "Since ", " Since", "a\n", "a b ", "é🦙", "</s>")


@pytest.mark.parametrize("name", OPENED)
def test_a_message_that_is_left_open_ends_where_it_does_in_transformers(with_template, name):
    pytest.importorskip("transformers")
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate(with_template(OPENED[name], **special), now=NOW)
    first = {"role": "user", "content": "Why e?"}
    for last, role in itertools.product(LAST, ("assistant", "user")):
        for before in ([], [first]):
            messages = [*before, {"role": role, "content": last}]
            wanted = applied(OPENED[name], messages, special, continue_final_message=True)
            if isinstance(wanted, str):
                # The mark of transformers stays in the text where the message stands twice.
                wanted = wanted.replace("CONTINUE_FINAL_MESSAGE_TAG ", "")
                assert template.left_open(messages) == wanted, messages
            else:
                with pytest.raises(BadInput):
                    template.left_open(messages)
    template.close()


def test_a_conversation_of_no_message_is_none(tiny):
    for ask in (ChatTemplate(tiny).render, ChatTemplate(tiny).left_open):
        with pytest.raises(BadInput, match="no message"):
            ask([])


def test_a_template_that_refuses_is_quoted(with_template):
    artifact = with_template("{{ raise_exception('Only user\n \x1b[2Jturns') }}")
    with pytest.raises(
        ConversationRefused, match=r"refuses the conversation \(Only user \[2Jturns"
    ):
        chat_prompt(artifact, "why?")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ helper() }}", "'helper' is undefined"),
        ("{% if %}", "Expected an expression, got 'end of statement block', line 1"),
        ("{{ 'x' * 10 ** 10 }}", "more than 256 MiB of memory"),
        ("{{ 'x' * (5 * 10 ** 6) }}", "5000000 characters"),
        ("{{ '\\ud800' }}", "surrogate"),
        ("é".encode("latin-1"), "not UTF-8"),
        ("x" * (MOST_TEMPLATE_BYTES + 1), "longer than 1 MiB"),
        ("", "renders nothing"),
        ("{% if messages[0].role == 'system' %}x{% endif %}", "renders nothing"),
    ],
)
def test_a_template_that_fails_says_how_in_a_line(with_template, template, words):
    with pytest.raises(BadInput) as raised:
        chat_prompt(with_template(template), "why?")
    assert words in str(raised.value)
    assert str(raised.value).endswith("export again with --overwrite; else leave out --chat")
    assert str(raised.value).isprintable()


def test_a_question_that_is_no_text_is_told_apart_from_the_template(tiny):
    with pytest.raises(BadInput, match="bytes that are not UTF-8"):
        chat_prompt(tiny, "\udcff")


def test_an_artifact_without_a_template_says_so_by_the_option(tiny):
    files = {name: record for name, record in tiny.manifest.files.items() if name != CHAT_TEMPLATE}
    artifact = Artifact(tiny.folder, replace(tiny.manifest, files=files))
    with pytest.raises(NotExported, match="leave out --apply-chat-template"):
        render_chat(artifact, [U], option="--apply-chat-template")


def test_the_date_is_todays_or_the_one_that_is_given(with_template):
    artifact = with_template("{{ strftime_now('%Y-%m-%d') }}")
    before = datetime.now().date()
    assert before.isoformat() <= chat_prompt(artifact, "?") <= datetime.now().date().isoformat()
    assert chat_prompt(artifact, "?", date="2024-02-29") == "2024-02-29"
    assert render_chat(artifact, [U], date="1999-01-02") == "1999-01-02"
    with pytest.raises(BadInput, match="--date"):
        chat_prompt(artifact, "?", date="tomorrow")
