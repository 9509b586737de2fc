"""What anybody wrote into a file reaches no reader as more than text, whatever it is printed as."""

from __future__ import annotations

import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import fields, is_dataclass, replace

import pytest
from rich.console import Console

from llx.errors import BadInput
from llx.notebook import html_table
from llx.reports.compare.changes import changes_markdown, changes_table, settings_table
from llx.reports.compare.pairs import compare_results
from llx.reports.console import explanations, plain, result_tables
from llx.reports.emitters import junit
from llx.reports.formats import FORMATS
from llx.reports.html.page import page_html
from llx.reports.plain import spoken, visible
from tests.reports.made import RESULT
from tests.reports.pairs import turned

CONTROLS = "".join(
    chr(code)
    for code in range(0x3000)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")
)
NASTY = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202eevil\u2066\u2028\u2029\x00\x7f\ufffe"
    "<script>alert(1)</script><img src=x onerror=alert(2)> **bold** [a](http://evil.example) `x` "
    "@somebody #1 | <!-- --> \n# heading\n| a |\n{{ 7*7 }} ]]> &amp; http://evil.example"
)
# Text that decides something, which a file cannot change: dates, and words out of a few.
DECIDES = ("schema", "created", "verdict", "unit", "turns", "reference")


def planted(value, path=()):
    """The value with the nasty text in place of each text, one at a time, and where."""
    if isinstance(value, str):
        yield path, NASTY
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in DECIDES:
                for where, inner in planted(getattr(value, field.name), (*path, field.name)):
                    yield where, replace(value, **{field.name: inner})
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, f"{key} as a key"), {NASTY: item}
            for where, inner in planted(item, (*path, key)):
                yield where, {**value, key: inner}
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            for where, inner in planted(item, (*path, i)):
                changed = [*value[:i], inner, *value[i + 1 :]]
                yield where, type(value)(changed)


WHOLE = [("result", RESULT), *zip(("baseline", "candidate"), turned(0.9, "slower"), strict=True)]
EVERY = [
    pytest.param(odd, id=f"{name} {'.'.join(map(str, where))}")
    for name, whole in WHOLE
    for where, odd in planted(whole)
]


def shown(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def raw(text):
    """The characters of a text that a terminal would act upon."""
    return {c for c in text if c != "\n" and not c.isprintable()}


def live_markdown(text):
    """Markup that is not inside a code span."""
    bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    return [
        mark
        for mark in ("<script", "<img", "**bold", "](http", "@somebody", "<!--", "http://evil")
        if mark in bare
    ] + re.findall(r"^# heading|^\| a \|", text, re.MULTILINE)


@pytest.mark.parametrize("odd", EVERY)
def test_a_nasty_text_anywhere_in_a_result_is_text_in_every_output(odd):
    for name in ("md", "csv", "junit"):
        assert not raw(FORMATS[name]([odd])), name
    assert not live_markdown(FORMATS["md"]([odd]))
    ET.fromstring(junit([odd]))
    for table in result_tables([odd]):
        assert not raw(shown(table))
    assert not raw("\n".join(str(plain(line)) for line in explanations([odd])))
    assert "<script>alert" not in odd._repr_html_()
    assert not raw(odd._repr_html_())
    assert "<img src" not in odd._repr_html_()


@pytest.mark.parametrize("odd", EVERY)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_nasty_text_is_text_in_a_comparison(odd, side):
    pair = ([odd], [RESULT]) if side == "before" else ([RESULT], [odd])
    if odd.engine == NASTY:  # another engine is compared with nothing
        with pytest.raises(BadInput) as refused:
            compare_results(*pair)
        assert not raw(str(refused.value))
        return
    found = compare_results(*pair)
    for table in (changes_table(found), settings_table(found)):
        assert not raw(shown(table))
    assert not raw(changes_markdown(found))
    assert not live_markdown(changes_markdown(found))


@pytest.mark.slow
def test_a_nasty_text_is_text_on_the_page():
    usual = raw(page_html([RESULT]))
    for odd in (param.values[0] for param in EVERY):
        page = page_html([odd])
        body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        assert raw(body) <= usual
        for mark in ("<script>alert", "<img src=x"):
            assert mark not in page


def test_what_a_model_says_keeps_its_lines_and_commands_no_terminal():
    said = spoken(f"a\tb\n{CONTROLS}\u200dc é 👩‍🚀")
    assert said.startswith("a\tb\n")
    assert said.endswith("c é 👩‍🚀")
    assert all(unicodedata.category(c) not in ("Cc", "Zl", "Zp") for c in said if c not in "\n\t")
    assert not set(said) & set("\u202e\u2066\u2069\u200f")
    assert r"\x1b" in said


def test_one_line_stays_one_line():
    assert "\n" not in visible(CONTROLS)
    assert not raw(visible(CONTROLS + "\ufffe\uffff\ud800"))


def test_a_notebooks_table_shows_no_controls():
    assert not raw(html_table(NASTY, (NASTY,), ((NASTY,),)))


def test_a_models_words_reach_the_terminal_as_text(llx, monkeypatch):
    monkeypatch.setattr("llx.api.generate.generate", lambda *_, **__: iter(["a\n", NASTY, "\tend"]))
    ended = llx("generate", "artifact", "hi")
    assert ended.code == 0
    assert not raw(ended.stdout) - {"\t"}
    assert ended.stdout.startswith("a\n\\x1b[2J")
    assert ended.stdout.endswith("\tend\n")
