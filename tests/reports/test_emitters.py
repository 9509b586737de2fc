"""What other programs read: each format by its own reader or schema, and with hostile strings."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from llx.reports.formats import FORMATS
from llx.result import FailedTest
from tests.reports.made import CRASH, ERROR, RESULT, ROW
from tests.reports.pairs import turned

# github.com/benchmark-action/github-action-benchmark, README: "custom" benchmarks.
GITHUB = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}
METRIC = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "lower_value": {"type": "number"},
        "upper_value": {"type": "number"},
    },
    "required": ["value"],
    "additionalProperties": False,
}
# bencher.dev/docs/reference/bencher-metric-format: names of up to 1024, slugs of up to 64.
BENCHER = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 1024},
    "additionalProperties": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z0-9-]{1,64}$"},
        "additionalProperties": METRIC,
    },
}
INVALID = replace(ROW, test="tg64", valid=False, invalid_reason="no warm-up")
MIXED = replace(RESULT, speed=[ROW, INVALID], failed=[FailedTest(test="pp512", error=CRASH)])
LACKED = replace(RESULT, engine="trt", speed=[], fidelity=None, memory=None, error=ERROR)


@pytest.mark.parametrize("name", ["github-bigger", "github-smaller"])
def test_github_action_benchmark_is_given_numbers_that_are_better_in_one_direction(name):
    entries = json.loads(FORMATS[name]([MIXED, LACKED]))
    jsonschema.validate(entries, GITHUB)
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    speeds = [entry for entry in entries if entry["name"] == "tiny-fp32 ort tg128 speed"]
    assert [entry["value"] for entry in speeds] == ([ROW.mean] if name == "github-bigger" else [])
    assert any("KLD" in one for one in names) == (name == "github-smaller")


def test_bencher_is_given_values_with_their_interval():
    found = json.loads(FORMATS["bencher"]([MIXED, LACKED]))
    jsonschema.validate(found, BENCHER)
    speed = found["tiny-fp32 ort tg128"]["speed"]
    assert (speed["lower_value"], speed["value"], speed["upper_value"]) == (14.1, 20.5, 26.9)
    assert found["tiny-fp32 ort prefill"]["kld"]["value"] == RESULT.fidelity.prefill.kld.mean


@pytest.mark.parametrize("name", ["github-bigger", "github-smaller", "bencher"])
def test_of_two_in_turns_the_candidates_numbers_are_followed(name):
    baseline, candidate = turned(0.9, "slower")
    assert FORMATS[name]([baseline, candidate]) == FORMATS[name]([candidate])


@pytest.mark.parametrize("name", ["github-bigger", "github-smaller", "bencher"])
def test_numbers_that_may_not_be_published_are_left_out(name):
    quick = replace(RESULT, speed=[replace(ROW, quick=True)])
    for found in (MIXED, quick):
        assert "tg64" not in FORMATS[name]([found])
    assert "tg128" not in FORMATS[name]([quick])


def test_junit_says_what_failed_crashed_and_was_not_run():
    found = JUnitXml.fromstring(FORMATS["junit"]([MIXED, LACKED]).encode())
    suites = {suite.name: suite for suite in found}
    assert list(suites) == ["tiny-fp32 ort", "tiny-fp32 trt"]
    outcome = {
        case.name: type(case.result[0]) if case.result else None
        for suite in found
        for case in suite
    }
    assert outcome == {
        "tg128": None,
        "tg64": Failure,
        "pp512": Error,
        "fidelity": None,
        "engine": Skipped,
    }
    first = suites["tiny-fp32 ort"]
    assert (first.tests, first.failures, first.errors, first.skipped) == (4, 1, 1, 0)


HOSTILE = [
    "</testsuite><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "@everyone #1 [click](https://evil.example) ![x](https://evil.example/x.png)",
    "=cmd|' /C calc'!A0",
    "+1+cmd",
    "-2+3",
    "@SUM(1)",
    "\x1b]0;title\x07\x1b[2J",
    "a\u202eb\u2028c\ufeff",
    "[bold red]x[/]",
    "`` ` ```",
    "x|y\nz",
]


def hostile(text):
    """A result whose every free text is hostile."""
    return replace(
        MIXED,
        engine=text,
        command=text,
        created=text,
        artifact=replace(RESULT.artifact, name=text, source=text, weights=text),
        environment=replace(
            RESULT.environment, device=text, os=text, versions={"numpy": text}, notes=[text]
        ),
        speed=[ROW, replace(INVALID, invalid_reason=text)],
        failed=[FailedTest(test=text, error=replace(CRASH, message=text, remedy=text))],
        fidelity=replace(RESULT.fidelity, corpus=text, bos=text, reference_weights=text),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_no_format_is_broken_by_what_a_result_says(text):
    found = [hostile(text)]
    jsonschema.validate(json.loads(FORMATS["bencher"](found)), BENCHER)
    jsonschema.validate(json.loads(FORMATS["github-bigger"](found)), GITHUB)
    root = ElementTree.fromstring(FORMATS["junit"](found))
    tags = {element.tag for element in root.iter()}
    assert tags <= {"testsuites", "testsuite", "testcase", "failure", "error", "system-out"}
    for row in csv.reader(io.StringIO(FORMATS["csv"](found))):
        assert not any(cell.startswith(("=", "+", "@")) for cell in row)
        assert not any(cell.startswith("-") and not cell[1:2].isdigit() for cell in row)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_hostile_text_as_code(text):
    page = FORMATS["md"]([hostile(text)])
    assert "\x1b" not in page
    assert "\u202e" not in page
    outside = without_code(page)
    for part in ("<script", "<img", "@everyone", "@SUM", "](https:", "[bold", "=cmd", "://"):
        assert part not in outside


def without_code(page):
    """Markdown with its code spans taken out, as CommonMark finds them: fences of equal length."""
    kept, at = [], 0
    runs = [(m.start(), m.end()) for m in re.finditer("`+", page)]
    while runs:
        start, end = runs.pop(0)
        closing = next((run for run in runs if run[1] - run[0] == end - start), None)
        kept.append(page[at:start])
        if closing is None:
            kept.append(page[start:end])
            at = end
        else:
            at = closing[1]
            runs = [run for run in runs if run[0] >= at]
    return "".join([*kept, page[at:]])
