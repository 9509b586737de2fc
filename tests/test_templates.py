"""A chat template can take no more than it is given, and its process is nobody's burden."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from datetime import datetime

import pytest

from llx import template_process
from llx.errors import BadInput
from llx.templates import (
    EXIT_MEMORY,
    PROGRAM,
    Limits,
    TemplateFailed,
    TemplateProcess,
    day_of,
)
from tests.conversations import NOW, TURNS
from tests.test_imports import imported

U = [TURNS["u"]]


@pytest.fixture(scope="module")
def process():
    with TemplateProcess() as process:
        yield process


BOMBS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ (10 ** (10 ** 8)) % 7 }}",
    "a power that is folded": "{{ 10 ** (10 ** 10) }}",
    "a power of a variable": "{% set n = messages | length %}{{ (10 ** (10 ** (8 * n))) % 7 }}",
    "a long text": "{{ 'x' * 10 ** 8 }}",
    "a longer text": "{{ 'x' * 10 ** 10 }}",
    "a text too long": "{{ 'x' * 10 ** 7 }}",
    "joins": "{% set ns = namespace(a='x') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}"
    "{% endfor %}{{ ns.a | length }}",
    "lists": "{% set ns = namespace(a=[1]) %}{% for i in range(40) %}{% set ns.a = ns.a + ns.a %}"
    "{% endfor %}",
    "padding": "{{ 'x' | center(10 ** 9) }}{{ '%1000000000d' % 1 }}",
    "pieces": "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    "macros": "{% macro f(n) %}{% for i in range(9) %}{{ f(n - 1) if n }}{% endfor %}{% endmacro %}"
    "{{ f(60) }}",
    "a slice": "{{ range(99999) | batch(1) | list | string * 10 ** 5 }}",
    "an integer as text": "{{ (10 ** (10 ** 6)) | string }}",
    "parentheses": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "brackets": "{{ " + "[" * 400 + "]" * 400 + " }}",
    "conditions": "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "a message": "{{ raise_exception('x' * 10 ** 7) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_template_takes_more_than_its_limits(name):
    limits = Limits(cpu_s=0.2, memory_bytes=64 << 20, most_characters=1 << 16)
    with TemplateProcess(limits) as process:
        with pytest.raises(TemplateFailed) as raised:
            process.render(BOMBS[name], {"messages": U}, NOW)
        assert 0 < len(str(raised.value)) <= template_process.MOST_WORDS
        assert process.render("{{ 1 }}", {}, NOW) == "1"  # the next one is another's


@pytest.mark.parametrize("name", ["loops", "a power", "joins"])
def test_compiling_is_limited_as_rendering_is(name):
    template = "{{ " + BOMBS[name].replace("{{", "").replace("}}", "") + " }}"
    with TemplateProcess(Limits(cpu_s=0.2, memory_bytes=64 << 20)) as process:
        with pytest.raises(TemplateFailed):
            process.compile(template)
        process.compile("{{ x }}")


def test_a_process_that_does_not_answer_is_not_waited_for():
    with TemplateProcess(Limits(cpu_s=30, wall_s=0.5)) as process:
        with pytest.raises(TemplateFailed, match="no end"):
            process.render(BOMBS["loops"], {}, NOW)
        assert process._end is None


def test_one_process_renders_many_conversations(process):
    for i in range(50):
        assert process.render("{{ n }}", {"n": i}, NOW) == str(i)
    first = process._process.pid
    with pytest.raises(TemplateFailed, match="ZeroDivisionError"):
        process.render("{{ 1 // 0 }}", {}, NOW)
    assert process.render("{{ n }}", {"n": 1}, NOW) == "1"
    assert process._process.pid == first


def test_a_process_that_was_ended_from_outside_is_started_again():
    with TemplateProcess() as process:
        process.render("", {}, NOW)
        process._process.kill()
        process._process.wait()
        assert process.render("a", {}, NOW) == "a"


def test_one_conversation_leaves_nothing_for_the_next(process):
    keep = "{% set ns = namespace(seen=0) %}{% set ns.seen = ns.seen + 1 %}{{ ns.seen }}{{ left }}"
    assert process.render(keep, {"left": "a"}, NOW) == "1a"
    assert process.render(keep, {}, NOW) == "1"


def test_the_process_inherits_no_files_and_no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    with (tmp_path / "open").open("w"), TemplateProcess() as process:
        process.render("", {}, NOW)
        if sys.platform == "linux":
            known = f"/proc/{process._process.pid}"
            with open(f"{known}/environ", "rb") as file:
                assert b"secret" not in file.read()
            assert set(os.listdir(f"{known}/fd")) == {"0", "1", "2"}
            assert os.readlink(f"{known}/cwd") == "/"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit less")
def test_the_process_can_open_and_start_nothing():
    code = (
        "import os, socket\nfrom llx.template_process import limit\nlimit(1 << 28)\n"
        "def tried(what):\n    try:\n        what()\n    except OSError:\n        print('no')\n"
        "tried(lambda: open('/etc/passwd'))\ntried(socket.socket)\ntried(os.pipe)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "no\n" * 3


def test_it_imports_the_standard_library_jinja2_and_yaml_alone():
    names = {name.split(".")[0] for name in imported(ast.parse(PROGRAM.read_text()))}
    assert names - sys.stdlib_module_names == {"jinja2", "yaml"}
    assert template_process.EXIT_MEMORY == EXIT_MEMORY


SCRIPT = """
import threading, llx.templates, datetime
with open("runs", "a") as file:
    file.write("run\\n")
def work():
    process = llx.templates.TemplateProcess()
    print(process.render("{{ x }}", {"x": 1}, datetime.datetime(2026, 1, 1)), flush=True)
    return process
kept = work()
thread = threading.Thread(target=work)
thread.start(); thread.join()
"""


def test_a_script_without_a_main_guard_leaves_no_process_and_no_warning(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("1\n1\n", "", 0)
    assert (tmp_path / "runs").read_text() == "run\n"


def test_threads_have_processes_of_their_own():
    found = []

    def work(number):
        with TemplateProcess() as process:
            found.append(process.render("{{ n }}", {"n": number}, NOW))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list("0123")


def test_a_days_beginning_is_what_a_template_is_told(process):
    now = day_of("2024-02-29")
    assert now == datetime(2024, 2, 29)
    assert process.render("{{ strftime_now('%d %b %Y %H:%M') }}", {}, now) == "29 Feb 2024 00:00"
    assert abs(datetime.now() - day_of(None)).days == 0


@pytest.mark.parametrize("date", ["2026-02-30", "30.01.2026", "today", "", "2026-01-01T00:00", 5])
def test_what_is_no_day_is_refused(date):
    with pytest.raises(BadInput, match="YYYY-MM-DD"):
        day_of(date)
