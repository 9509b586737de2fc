"""Conversations in the words of an artifact's chat template."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any

from llx.artifact import Artifact
from llx.errors import BadInput, NotExported
from llx.manifest import CHAT_TEMPLATE
from llx.templates import (
    MOST_TEMPLATE_BYTES,
    TemplateFailed,
    TemplateProcess,
    TemplateRefused,
    day_of,
)

ASKED_BY = "--chat"
# Where a message ends that is left open. Its last space shows whether the template trims messages.
MARK = "HERE_THE_MESSAGE_IS_LEFT_OPEN "

# Whether a model shall think, by the names that templates know: Qwen3 and SmolLM3, Granite 3.
THINKING = ("enable_thinking", "thinking")

# What a model thought before it answered, by the names that go around; templates read the first.
REASONING = ("reasoning_content", "thinking", "reasoning")

Message = dict[str, Any]


class ConversationRefused(BadInput):
    """The template takes no such conversation: it says so itself, by `raise_exception`."""


class ChatTemplate:
    """An artifact's chat template. `option` is what asked for it, `now` the time it is told.

    `thinking`: whether it is told to let the model think; None: it is told nothing. `instead`: what
    can be done without a template, where that is not to leave out the option. Its process is
    started by the first conversation and ends with `close`, or with the object.
    """

    def __init__(
        self,
        artifact: Artifact,
        option: str = ASKED_BY,
        now: datetime | None = None,
        instead: str = "",
        thinking: bool | None = None,
    ) -> None:
        self._artifact, self._now, self._thinking = artifact, now, thinking
        self._without = instead or f"leave out {option}"
        self._process = TemplateProcess()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def render(self, messages: list[Message], add_generation_prompt: bool = True) -> str:
        """A conversation as text.

        Raises `NotExported` where the artifact has no template, `ConversationRefused` where that
        says so by itself, and `BadInput` where it fails, takes more than its limits or renders
        nothing.
        """
        variables = {
            **({} if self._thinking is None else dict.fromkeys(THINKING, self._thinking)),
            **self._special_tokens,
            "messages": [_as_templates_read(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        source = self._source
        if not messages:
            raise BadInput("a conversation has no message to render", "give it one")
        try:
            text = self._process.render(source, variables, self._now or datetime.now())
        except TemplateRefused as error:
            raise ConversationRefused(
                f"the chat template refuses the conversation ({error})", self._remedy
            ) from None
        except TemplateFailed as error:
            raise BadInput(f"the chat template fails ({error})", self._remedy) from None
        if not text:
            raise BadInput(
                "the chat template renders nothing at all of the conversation", self._remedy
            )
        return text

    def tell_of_thinking(self, messages: list[Message], tell: Callable[[str], None]) -> None:
        """Say so where the conversation is the same whether the model is told to think or not."""
        if self._thinking is None:
            return
        told, texts = self._thinking, set()
        for self._thinking in (not told, told):
            texts.add(self.render(messages))
        if len(texts) == 1:
            option = "--thinking" if told else "--no-thinking"
            tell(f"this chat template knows nothing of thinking: {option} changes nothing")

    def left_open(self, messages: list[Message]) -> str:
        """A conversation up to the end of its last message, for the model to go on with that.

        The end is found by a mark there: the message's own words may occur behind it. Where the
        template trims messages, spaces at the end are cut off, as transformers does. Raises as
        `render` does, and `BadInput` where the message does not appear.
        """
        last = str(messages[-1]["content"]) if messages else ""
        marked = [*messages[:-1], *({**m, "content": last + MARK} for m in messages[-1:])]
        text = self.render(marked, add_generation_prompt=False)
        at = text.rfind(MARK.strip())
        if at < 0 or last.strip() not in text:
            raise BadInput(
                "the chat template changes the words of a message, which cannot be continued then",
                self._remedy,
            )
        kept = text[:at] if text.startswith(MARK, at) else text[:at].rstrip()
        return kept.replace(MARK, "").replace(MARK.strip(), "")  # where the message stands twice

    @property
    def _remedy(self) -> str:
        return (
            "if it is the template that is wrong, mend the checkpoint's and export again with "
            f"--overwrite; else {self._without}"
        )

    @cached_property
    def _source(self) -> str:
        if not self._artifact.has(CHAT_TEMPLATE):
            raise NotExported(
                f"{self._artifact.folder} has no chat template",
                "put a chat_template.jinja beside the checkpoint and export again with "
                f"--overwrite, or {self._without}",
            )
        path, data = self._artifact.path(CHAT_TEMPLATE), self._artifact.read(CHAT_TEMPLATE)
        if len(data) > MOST_TEMPLATE_BYTES:
            raise BadInput(f"{path} is longer than {MOST_TEMPLATE_BYTES >> 20} MiB", self._remedy)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not UTF-8 ({error})", self._remedy) from None

    @property
    def _special_tokens(self) -> dict[str, str]:
        """The special tokens that are set, by the names that templates know them by."""
        text = self._artifact.manifest.text
        if text is None:
            return {}
        named = {"bos_token": text.bos_token, "eos_token": text.eos_token, **text.special_tokens}
        return {name: token for name, token in named.items() if token}


def _as_templates_read(message: Message) -> Message:
    """A message as transformers hands it on: nothing that is None, and reasoning by each name."""
    said = {name: value for name, value in message.items() if value is not None}
    reasoning = [said[name] for name in REASONING if name in said]
    if not reasoning:
        return said
    return {"thinking": reasoning[0], **said, "reasoning_content": reasoning[0]}


def chat_prompt(
    artifact: Artifact,
    question: str,
    date: str | None = None,
    thinking: bool | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> str:
    """The question as the chat template asks it, which is told a date. None: now.

    Raises as `ChatTemplate.render` does.
    """
    asked: list[Message] = [{"role": "user", "content": question}]
    template = ChatTemplate(artifact, now=day_of(date), thinking=thinking)
    try:
        template.tell_of_thinking(asked, tell)
        return template.render(asked)
    finally:
        template.close()


def render_chat(
    artifact: Artifact,
    messages: list[Message],
    add_generation_prompt: bool = True,
    option: str = ASKED_BY,
    date: str | None = None,
) -> str:
    """A conversation in the words of the chat template. Raises as `ChatTemplate.render` does."""
    template = ChatTemplate(artifact, option, day_of(date))
    try:
        return template.render(messages, add_generation_prompt)
    finally:
        template.close()
