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

QWEN_3 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' ~ (messages[0].content ~ '\\n' if messages[0].role == 'system') }}
    {%- for tool in tools %}{{- tool | tojson ~ '\\n' }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, asked=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set at = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>')) %}
        {%- set ns.searching = false %}{%- set ns.asked = at %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if loop.index0 > ns.asked and (loop.last or (not loop.last and thought)) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
                {%- if call.arguments is string %}{{- call.arguments }}
                {%- else %}{{- call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set told = messages[0]["content"] %}{%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in turns %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the system prompt roles must go user, assistant, user, …") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == asked[-1] %}
            {{- "[AVAILABLE_TOOLS] " + tools | tojson + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and told is defined %}
            {{- "[INST] " + told + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id | length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings of length 9!") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] in ("tool_results", "tool") %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

GRANITE_3 = """\
{%- set now = strftime_now('%B %d, %Y') %}
{%- set knowledge = "Knowledge Cutoff Date: April 2024.\\nToday's Date: " + now + ".\\n" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] %}{%- set turns = messages[1:] %}
{%- else %}
    {%- set told = knowledge %}
    {%- if tools and documents %}{%- set told = told + "Tools and documents." %}
    {%- elif documents %}{%- set told = told + "Write by the documents alone." %}
    {%- elif thinking %}{%- set told = told + "Write your thoughts first." %}{%- endif %}
    {%- if 'citations' in controls and documents %}{%- set told = told + ' Cite.' %}{%- endif %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + told + '<|end_of_text|>\\n' }}
{%- if tools %}
    {{- '<|start_of_role|>tools<|end_of_role|>' }}
    {{- tools | tojson(indent=4) }}{{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|start_of_role|>document {"document_id": "' + document['doc_id'] | string + '"}' }}
        {{- '<|end_of_role|>\\n' + document['text'] + '<|end_of_text|>\\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in turns %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] }}
    {{- '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

SMOLLM_3 = """\
{# ───── defaults ───── #}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}
{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
    {%- set told = messages[0].content -%}
    {%- if "/no_think" in told -%}{%- set reasoning_mode = "/no_think" -%}
    {%- elif "/think" in told -%}{%- set reasoning_mode = "/think" -%}{%- endif -%}
    {%- set own = told.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{%- if "/system_override" in told -%}
    {{- own.replace("/system_override", "").rstrip() -}}{{- "<|im_end|>\\n" -}}
{%- else -%}
    {{- "## Metadata\\n\\nToday Date: " ~ strftime_now("%d %B %Y") ~ "\\n" -}}
    {{- "Reasoning Mode: " + reasoning_mode + "\\n\\n## Custom Instructions\\n\\n" -}}
    {%- if own -%}{{- own + "\\n\\n" -}}
    {%- elif reasoning_mode == "/think" -%}{{- "Think first.\\n\\n" -}}
    {%- else -%}{{- "Be helpful.\\n\\n" -}}{%- endif -%}
    {%- if xml_tools or python_tools or tools -%}
        {%- set ns = namespace(text="Tools:\\n") -%}
        {%- for tool in tools or [] -%}{%- set ns.text = ns.text ~ (tool | string) -%}{%- endfor -%}
        {{- ns.text -}}
    {%- endif -%}
    {{- "<|im_end|>\\n" -}}
{%- endif -%}
{#- ───── turns ───── #}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" + content.lstrip("\\n") }}
            {{- "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
        {{ "<|im_start|>user\\n" + message.content | string + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if reasoning_mode == "/think" -%}{{ "<|im_start|>assistant\\n" }}
    {%- else -%}{{ "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" }}{%- endif -%}
{%- endif -%}"""

PHI_3 = """\
{% for message in messages %}{% if message['role'] == 'system' %}\
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}\
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}\
{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

DEEPSEEK_R1 = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, told='') %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}\
{% set ns.told = message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.told }}\
{%- for message in messages %}\
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}\
{{ '<｜User｜>' + message['content'] }}{%- endif %}\
{%- if message['role'] == 'assistant' and message['content'] is none %}\
{%- for call in message['tool_calls'] %}\
{{ '<｜tool▁call▁begin｜>' + call['function']['name'] + '\\n' }}{%- endfor %}{%- endif %}\
{%- if message['role'] == 'assistant' and message['content'] is not none %}\
{% set content = message['content'] %}{% if '</think>' in content %}\
{% set content = content.split('</think>')[-1] %}{% endif %}\
{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}\
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}\
{{ '<｜tool▁output▁begin｜>' ~ message['content'] ~ '<｜tool▁output▁end｜>' }}{%- endif %}\
{%- endfor -%}\
{% if add_generation_prompt and not ns.is_tool %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""

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
    "qwen 3": QWEN_3,
    "mistral": MISTRAL,
    "granite 3": GRANITE_3,
    "smollm 3": SMOLLM_3,
    "phi 3": PHI_3,
    "deepseek r1": DEEPSEEK_R1,
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
