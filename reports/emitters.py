"""Results in the formats of programs that follow benchmarks: one function for each.

- github-action-benchmark reads a list of numbers that are all better when larger, or all when
  smaller: two formats (its README, "custom" tools).
- Bencher reads its Metric Format (bencher.dev/docs/reference/bencher-metric-format).
- JUnit XML is what CI systems show as tests: an invalid row is a failure, a crash an error.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import msgspec

from llx.errors import EXIT_LACKING
from llx.reports.measures import Measure, followed, measures
from llx.reports.plain import visible
from llx.reports.units import significant
from llx.result import ErrorRecord, Result, SpeedRow


def github_bigger(results: Sequence[Result]) -> str:
    """For github-action-benchmark's `customBiggerIsBetter`."""
    return _github(results, more_is_better=True)


def github_smaller(results: Sequence[Result]) -> str:
    """For github-action-benchmark's `customSmallerIsBetter`."""
    return _github(results, more_is_better=False)


def _github(results: Sequence[Result], *, more_is_better: bool) -> str:
    entries = [
        {
            "name": f"{_named(result)} {measure.of} {measure.name}",
            "unit": measure.unit,
            "value": measure.value,
            **_range(measure),
            "extra": visible(f"{result.environment.device}\n{result.command}"),
        }
        for result in followed(results)
        for measure in measures(result)
        if measure.more_is_better == more_is_better
    ]
    return _pretty(entries)


def _range(measure: Measure) -> dict[str, str]:
    if measure.interval is None:
        return {}
    low, high = measure.interval
    return {"range": f"± {significant((high - low) / 2, 3)}"}


def bencher(results: Sequence[Result]) -> str:
    """Bencher Metric Format."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for result in followed(results):
        for measure in measures(result):
            metric = {"value": measure.value}
            if measure.interval:
                metric["lower_value"], metric["upper_value"] = measure.interval
            found.setdefault(f"{_named(result)} {measure.of}", {})[measure.slug] = metric
    return _pretty(found)


def junit(results: Sequence[Result]) -> str:
    """JUnit XML: a suite for each engine and artifact, a case for each test."""
    suites = ET.Element("testsuites")
    for result in results:
        suite = ET.SubElement(suites, "testsuite", name=_named(result))
        for row in result.speed:
            case = _case(suite, result, row.name, sum(map(sum, row.step_ns)) / 1e9)
            _outcome_of_row(case, row)
        for failed in result.failed:
            _error(_case(suite, result, failed.test), failed.error)
        if result.error:
            _error(_case(suite, result, "engine"), result.error)
        if result.fidelity:
            _case(suite, result, "fidelity")
        for attribute, tag in (
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            suite.set(attribute, str(len(suite.findall(f"*/{tag}"))))
        suite.set("tests", str(len(suite)))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _case(suite: ET.Element, result: Result, test: str, seconds: float = 0.0) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=_named(result), name=visible(test), time=f"{seconds:.3f}"
    )


def _outcome_of_row(case: ET.Element, row: SpeedRow) -> None:
    if row.valid:
        ET.SubElement(case, "system-out").text = f"{significant(row.mean)} {row.unit}"
    else:
        ET.SubElement(case, "failure", message=visible(f"INVALID: {row.invalid_reason}"))


def _error(case: ET.Element, error: ErrorRecord) -> None:
    """What this machine lacks was not run; all else went wrong."""
    tag = "skipped" if error.exit_code == EXIT_LACKING else "error"
    ET.SubElement(case, tag, message=visible(f"{error.message}: {error.remedy}"))


def _named(result: Result) -> str:
    return visible(f"{result.artifact.name} {result.engine}")


def _pretty(content: object) -> str:
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"
