"""Results in the formats of programs that follow benchmarks: one function for each.

- github-action-benchmark reads a list of numbers that are all better when larger, or all when
  smaller: two formats (its README, "custom" tools).
- Bencher reads its Metric Format (bencher.dev/docs/reference/bencher-metric-format).
- JUnit XML is what CI systems show as tests: an invalid row is a failure, a crash an error.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from llx.errors import EXIT_LACKING
from llx.reports.measures import Measure, followed, measures
from llx.reports.plain import visible
from llx.reports.units import significant
from llx.result import FIDELITY, ErrorRecord, Result, on_text


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


Outcome = Literal["passed", "failure", "error", "skipped"]


@dataclass(frozen=True)
class Case:
    """A case of a JUnit suite: its name, how it ended, and what is said of it, if anything."""

    name: str
    outcome: Outcome = "passed"
    said: str = ""
    seconds: float = 0.0


def junit(results: Sequence[Result]) -> str:
    """JUnit XML: a suite for each engine and artifact, a case for each test."""
    return junit_of([(_named(result), list(_cases(result))) for result in results])


def _cases(result: Result) -> Iterator[Case]:
    for row in result.speed:
        seconds = sum(map(sum, row.step_ns)) / 1e9
        if row.valid:
            said = f"{significant(row.speed)} {row.unit}"
            yield Case(row.name, said=said, seconds=seconds)
        else:
            said = f"INVALID: {row.invalid_reason} ({significant(row.speed)} {row.unit})"
            yield Case(row.name, "failure", said, seconds)
    for failed in result.failed:
        yield _error(failed.test, failed.error)
    if result.error:
        yield _error("engine", result.error)
    for text, one in result.judged().items():
        said = f"PPL ratio {significant(one.ppl_ratio.value)}, KLD {significant(one.kld.mean, 2)}"
        yield Case(on_text(FIDELITY, text), said=said)


def _error(test: str, error: ErrorRecord) -> Case:
    """What this machine lacks was not run; all else went wrong."""
    outcome: Outcome = "skipped" if error.exit_code == EXIT_LACKING else "error"
    return Case(test, outcome, f"{error.message}: {error.remedy}")


def junit_of(suites: Iterable[tuple[str, Sequence[Case]]]) -> str:
    """JUnit XML of suites by name."""
    root = ET.Element("testsuites")
    for name, cases in suites:
        suite = ET.SubElement(root, "testsuite", name=visible(name))
        for case in cases:
            at = {"classname": visible(name), "name": visible(case.name)}
            element = ET.SubElement(suite, "testcase", at, time=f"{case.seconds:.3f}")
            if case.outcome != "passed":
                ET.SubElement(element, case.outcome, message=visible(case.said))
            elif case.said:
                ET.SubElement(element, "system-out").text = visible(case.said)
        for attribute, outcome in (
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            suite.set(attribute, str(sum(case.outcome == outcome for case in cases)))
        suite.set("tests", str(len(cases)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _named(result: Result) -> str:
    return visible(f"{result.artifact.name} {result.engine}")


def _pretty(content: object) -> str:
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"
