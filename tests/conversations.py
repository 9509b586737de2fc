"""Chat templates in the forms of the known families, conversations, and transformers' rendering."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from tests.checkpoints import byte_tokenizer

NOW = datetime(2026, 3, 9, 17, 5)

LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}\
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}\
{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must go user, assistant, user, …, not ' ~ message['role']) }}{% endif %}\
{% if loop.index0 == 0 and system_message != false %}\
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
{% endfor %}"""

LLAMA_3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system turn, which carries the date #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("One tool at a time!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """\
{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

THINKING = """\
{%- set ns = namespace(last=messages|length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and message.content is string %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- macro turn(role, content) -%}
<|{{ role }}|>{{ content }}<|end|>
{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- if message.content is string %}{% set content = message.content %}
    {%- else %}{% set content = '' %}{% endif %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- turn(message.role, content if loop.index0 > ns.last else content | trim) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}
{%- endif %}"""

GENERATION = """\
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- generation -%}{{ m.content }}{{ eos_token }}{%- endgeneration -%}
  {%- elif m.role == 'stop' -%}{%- break -%}
  {%- else -%}[{{ m.role | upper }}] {{ m['content'] | e }}
  {%- endif -%}
{%- endfor -%}
{%- if tools %}{{ tools | tojson }}{% elif documents is none %} no documents{% endif %}
"""

EVERY_KEY = """\
{%- for m in messages %}{% for key, value in m.items() | sort %}{{ key }}={{ value }};{% endfor %}
{{ m.reasoning_content if 'reasoning_content' in m else 'none' }}|{{ m.content is defined }}
{% endfor -%}"""

FAMILIES = {
    "every key": EVERY_KEY,
    "llama 2": LLAMA_2,
    "llama 3": LLAMA_3,
    "chatml": CHATML,
    "thinking": THINKING,
    "generation": GENERATION,
}

TOOL_CALL = {"function": {"name": "add", "arguments": {"b": "é <b>", "a": [1, 2.5, None, True]}}}
TURNS: dict[str, dict[str, Any]] = {
    "s": {"role": "system", "content": " Be brief.\n"},
    "u": {"role": "user", "content": "it's <b> “é” 🦙\\n\n {{ 1 }} {% if %}"},
    "a": {"role": "assistant", "content": "<think>hm</think>\n\nyes "},
    "t": {"role": "tool", "content": {"z": 1, "a": "ü"}},
    "c": {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
    "e": {"role": "user", "content": ""},
    "l": {"role": "user", "content": [{"type": "text", "text": "parts"}]},
    "x": {"role": "stop"},
    "r": {"role": "assistant", "content": "yes", "reasoning": "so", "name": None},
    "h": {"role": "assistant", "content": "yes", "thinking": "hm", "reasoning_content": ""},
}
CONVERSATIONS = {
    order: [TURNS[turn] for turn in order]
    for order in (
        "u",
        "su",
        "ua",
        "uau",
        "suaua",
        "us",
        "au",
        "uct",
        "uaxu",
        "uru",
        "uhr",
        "e",
        "l",
        "ss",
        "",
    )
}


@contextmanager
def clock(now: datetime = NOW) -> Iterator[None]:
    """Transformers' time stands still."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, _: Any = None) -> datetime:
            return now

    real, chat_template_utils.datetime = chat_template_utils.datetime, Clock
    try:
        yield
    finally:
        chat_template_utils.datetime = real


def theirs(template: str, messages: Any, **variables: Any) -> str | Exception:
    """What transformers renders, or what it raises."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        with clock():
            texts, _ = render_jinja_template([messages], chat_template=template, **variables)
        return texts[0]
    except Exception as error:
        return error


def applied(template: str, messages: Any, special: dict[str, str], **options: bool) -> Any:
    """What a tokenizer of transformers makes of a conversation, or what it raises."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(300), chat_template=template, **special
    )
    try:
        with clock():
            return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:
        return error


def grid() -> list[Any]:
    """Every family's template with every conversation that is handed on as it is."""
    import pytest

    return [
        pytest.param(FAMILIES[name], messages, id=f"{name}-{order or 'none'}")
        for name, (order, messages) in itertools.product(FAMILIES, CONVERSATIONS.items())
        if not set("rh") & set(order)
    ]
