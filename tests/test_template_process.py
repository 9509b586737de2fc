"""What a chat template finds, and what it renders, is what it is in transformers."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx import template_process
from llx.templates import TemplateFailed, TemplateProcess, TemplateRefused
from tests.conversations import NOW, TURNS, grid, theirs

pytest.importorskip("transformers", reason="pip install transformers")

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
U = [TURNS["u"]]


@pytest.fixture(scope="module")
def process():
    with TemplateProcess() as process:
        yield process


def ours(process, template, messages, **variables):
    """As `tests.conversations.theirs`."""
    known = {"tools": None, "documents": None, "add_generation_prompt": False, **variables}
    try:
        return process.render(template, {**known, "messages": messages}, NOW)
    except TemplateFailed as error:
        return error


def without_addresses(text):
    """What objects of Python call themselves, without where they lie in memory."""
    return re.sub("0x[0-9a-f]{8,}", "0x", text) if isinstance(text, str) else text


def assert_same(process, template, messages, **variables):
    found, wanted = (
        ours(process, template, messages, **variables),
        theirs(template, messages, **variables),
    )
    if isinstance(wanted, str):
        assert without_addresses(found) == without_addresses(wanted)
    else:
        refused = type(wanted).__name__ == "TemplateError"
        assert type(found) is (TemplateRefused if refused else TemplateFailed), (found, wanted)
        if refused:
            assert str(found) == " ".join(str(wanted).split())


@pytest.fixture(scope="module")
def environments():
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return template_process.environment(lambda: NOW), _compile_jinja_template("").environment


SETTINGS = (
    "block_start_string block_end_string variable_start_string variable_end_string "
    "comment_start_string comment_end_string line_statement_prefix line_comment_prefix trim_blocks "
    "lstrip_blocks newline_sequence keep_trailing_newline undefined optimized finalize autoescape "
    "loader bytecode_cache is_async policies sandboxed intercepted_binops intercepted_unops "
    "binop_table unop_table code_generator_class context_class template_class"
)


@pytest.mark.parametrize("name", SETTINGS.split())
def test_a_setting_of_the_environment_is_transformers(environments, name):
    one, other = environments
    assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("kind", ["globals", "filters", "tests"])
def test_what_a_template_finds_by_name_is_what_it_finds_in_transformers(environments, kind):
    one, other = (getattr(environment, kind) for environment in environments)
    assert one.keys() == other.keys()
    own = {
        "globals": {"raise_exception", "strftime_now", "dict", "namespace"},
        "filters": {"tojson"},
    }
    for name in one.keys() - own.get(kind, set()):
        assert one[name] is other[name], name


def test_tags_and_base_classes_are_transformers(environments):
    tags = [
        {tag for extension in environment.extensions.values() for tag in extension.tags}
        for environment in environments
    ]
    assert tags[0] == tags[1]
    assert type(environments[0]) is type(environments[1])


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize(("template", "messages"), grid())
def test_the_families_templates_render_as_in_transformers(
    process, template, messages, add_generation_prompt
):
    for special in (SPECIAL, {}):
        assert_same(
            process, template, messages, add_generation_prompt=add_generation_prompt, **special
        )


PIECES = (
    "{{ strftime_now('%Y-%m-%d %H:%M %A %B %j') }}",
    "{{ strftime_now(format='%d %b') }}",
    "{{ strftime_now(5) }}",
    "{% if strftime_now is defined %}D{% endif %}",
    "{{ raise_exception('Only\n  user “é”') }}",
    "{{ raise_exception(messages) }}",
    "{{ raise_exception() }}",
    "{{ {'b': 1, 'a': '<é>&\"'} | tojson }}",
    "{{ messages | tojson(indent=2, sort_keys=true) }}",
    "{{ messages | tojson(true, 1, (',', ':'), true) }}",
    "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "{{ nothing | tojson }}",
    "{{ 'a' | tojson ~ '<b>' }}",
    "{{ dict(a=1, b=2) }}{{ dict([('k', 1)]).k }}{{ dict.fromkeys(['x'], 3) }}",
    "{{ dict.mro }}",
    "{% set ns = namespace(x=1, self=2) %}{% set ns.x = 5 %}{{ ns.x }}{{ ns.self }}{{ ns.y }}",
    "{% set ns = namespace(_x=1) %}",
    "{% set ns = namespace({'a': 1}, b=2) %}{% set ns._a = 1 %}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}",
    "{{ namespace(1, 2) }}",
    "a\n{% generation %}\n  {{ messages[0].content }}\n{% endgeneration %}\nb",
    "a\n{%- generation -%}\n {{ messages[0].content }}\n{%- endgeneration -%}\nb",
    "{% generation %}{% set inner = 1 %}{{ inner }}{% endgeneration %}{{ inner is defined }}",
    "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% generation %}",
    "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m }}{% endfor %}",
    "{% break %}",
    "{% do messages.append(1) %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages[0].pop('role') }}",
    "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ date_string is defined }}",
    "{{ bos_token }}|{{ pad_token }}|{{ unk_token is defined }}",
    "{{ missing.more }}",
    "{{ missing['more'] }}",
    "{{ messages[9].content }}",
    "{{ messages[0].nosuch }}{{ messages[0].content.nosuch }}",
    "{{ messages[0]['content'] is string }}{{ messages[0].content is mapping }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''.join.__globals__ }}",
    "{{ cycler('a', 'b').next() }}{{ joiner(', ')() }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ '%d' % 'x' }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{nope}'.format(1) }}",
    "{{ 'n' + 1 }}",
    "{{ 1 // 0 }}",
    "{{ 2 ** 64 }}{{ 7 // 2 }}{{ 7 / 2 }}{{ -7 % 3 }}{{ 1e3 }}{{ 0x1f }}",
    "{% for i in range(100001) %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(a, b='d') %}{{ a, b, varargs, kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}",
    "{% include 'other' %}",
    "{% extends 'base' %}",
    "{% import 'other' as o %}",
    "{% if %}",
    "{{",
    "{% raw %}{{ x }}{% endraw %}{# a comment #}",
    "{{ x | nofilter }}",
    "{{ x is notest }}",
    "{% nosuchtag %}",
    '{{ \'\\u00e9\\x41\\n\' }}{{ "a\\"b" }}',
    "{{ self }}{{ loop }}",
    "{% filter upper %}abc{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}",
    "{% set block %} x {% endset %}[{{ block }}]",
    "{% call(x) f() %}{% endcall %}",
    "{% block b %}B{% endblock %}{{ self.b() }}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{{ '<' | e }}{{ '<' | safe }}{{ '<b>' | striptags }}",
    "{% trans %}x{% endtrans %}",
    "{{ debug() }}",
    "{{ now().year }}",
    "{{ 'a\r\nb' }}c\r\nd\re",
    "\ufeffx\n\n",
    "  \n",
    "",
    "{{ 'x' * 1000 }}",
    "{{ " + "(" * 60 + "1" + ")" * 60 + " }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% else %}-{% endfor %}",
    "{% for m in messages recursive %}{{ loop.depth }}{{ loop.cycle(1, 2) }}{% endfor %}",
    "{{ messages | map(attribute='role') | unique | join(',') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | groupby('role') | list }}",
    "{{ messages[0].content[:4][::-1] }}{{ (messages | last).role | title }}",
)


@pytest.mark.parametrize("template", PIECES)
@pytest.mark.parametrize("conversation", ["u", "su"])
def test_a_template_renders_or_fails_as_in_transformers(process, template, conversation):
    messages = [TURNS[turn] for turn in conversation]
    assert_same(process, template, messages, **SPECIAL)
    assert_same(process, f"-{template}\n", messages, add_generation_prompt=True)


VALUES = (
    "messages",
    "'a <b> c'",
    "5",
    "2.5",
    "none",
    "missing",
    "['b', 'a', 'B']",
    "{'k': 1, 'j': 2}",
)


def test_every_filter_and_test_does_as_in_transformers(process, environments):
    environment, _ = environments
    for value in VALUES:
        for name in sorted(environment.filters.keys() - {"random"}):
            assert_same(process, f"{{{{ {value} | {name} }}}}", U)
            assert_same(process, f"{{{{ {value} | {name}(2) | string }}}}", U)
        for name in sorted(environment.tests):
            if name.isidentifier():
                assert_same(process, f"{{{{ {value} is {name} }}}}", U)
                assert_same(process, f"{{{{ {value} is {name}(2) }}}}", U)


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CHATS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=4),
    between=st.sampled_from(["", "\n", " ", "\n  "]),
    messages=CHATS,
    add_generation_prompt=st.booleans(),
)
def test_pieces_put_together_render_as_in_transformers(
    process, pieces, between, messages, add_generation_prompt
):
    template = between.join(pieces)
    assert_same(process, template, messages, add_generation_prompt=add_generation_prompt, **SPECIAL)


def test_a_surrogate_is_told_and_of_whom(process):
    assert "surrogate" in str(ours(process, "{{ '\\ud800' }}", U))
    odd = [{"role": "user", "content": os.fsdecode(b"\xff")}]
    assert "UTF-8" in str(ours(process, "{{ messages[0].content }}", odd))


def test_what_is_no_json_is_seen_as_in_transformers(process):
    messages = [{"role": "user", "content": {"image": object(), "when": NOW}}]
    assert_same(process, "{{ messages[0].content }}", messages)
