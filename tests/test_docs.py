"""The site of documents: it builds without a warning, loads nothing of others, and cannot drift."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from html import unescape

import msgspec
import pytest
from typer.main import get_command

from llx.cli import app
from llx.reports.compare.changes import changes_json
from llx.reports.compare.pairs import compare_results
from llx.result import Result
from tests.reports.made import in_turns
from tests.test_imports import ROOT

SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
hooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(hooks)
SCHEMAS_PAGE = (ROOT / "docs" / "schemas.md").read_text()
# What a page would load by itself; a link that is clicked is none of it.
LOADED = re.compile(
    r"""(?:\bsrc|<link\b[^>]*\bhref)=["']?((?:https?:)?//[^"' >]+)|url\((https?:[^)]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_of_others(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        if "repository/reports/example" not in path.as_posix():
            assert LOADED.findall(path.read_text()) == [], path


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_file(site):
    for path in site.rglob("*.html"):
        if path.name == "404.html" or "repository/reports/example" in path.as_posix():
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)', path.read_text()):
            if not re.match(r"\w+:|/", target):
                assert (path.parent / unescape(target)).exists(), (path.name, target)


@pytest.mark.slow
def test_what_the_door_hands_on_stands_in_the_reference(site):
    text = (site / "api.html").read_text()
    for name in ("export", "bench", "compare", "OpenSession", "Results", "LlxError"):
        assert re.search(rf'id="llx\.[\w.]*\.{name}"', text), name


def test_every_option_of_every_command_stands_in_the_reference():
    text = hooks.commands_reference()
    for name, command in get_command(app).commands.items():
        part = text.split(f"## llx {name}\n")[1].split("\n## llx ")[0]
        options = [one for param in command.params for one in param.opts if one.startswith("-")]
        assert [option for option in options if option not in part] == [], name


def test_every_schema_that_is_written_stands_on_the_page():
    texts = [
        path.read_text()
        for folder in ("src", "reports", "bench", "exporter", "graphs")
        for path in (ROOT / folder).rglob("*.py")
    ]
    written = {name for text in texts for name in re.findall(r'"(llx\.\w+/\d+)"', text)}
    # A bug report is for people, and says its schema for nobody's program.
    assert written - {"llx.doctor/1"} == set(hooks.SCHEMAS) - {"gates"}
    assert re.findall(r"<!-- schema: (\S+) -->", SCHEMAS_PAGE) == list(hooks.SCHEMAS)


def test_a_schemas_fields_are_those_of_its_type():
    text = hooks.schema_reference("llx.result/1", set())
    part = text.split("### Result\n")[1].split("\n### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.M) == [field.name for field in fields(Result)]
    assert "[SpeedRow](#speedrow)" in part
    assert "why there is speed and no fidelity" in part


def test_a_comparison_is_what_the_page_says_of_it():
    baseline, candidate = in_turns()
    whole = msgspec.json.decode(changes_json(compare_results([baseline], [candidate])))
    said = SCHEMAS_PAGE.split("## llx.comparison/1")[1].split("<!--")[0]
    for name in (*whole, *whole["compared"]):
        assert f"`{name}`" in said, name
