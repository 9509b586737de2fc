"""What `-o` means: one function for each way to write results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from llx.errors import BadInput
from llx.reports.console import show_results, warn
from llx.reports.emitters import bencher, github_bigger, github_smaller, junit
from llx.reports.markdown import results_markdown
from llx.reports.measures import followed, measures
from llx.reports.plain import visible
from llx.result import Result, encode_results
from llx.streams import print_data

COLUMNS = (
    "created engine precision artifact device test isl osl depth batch tok_per_s_mean tok_per_s_sd "
    "tok_per_s_median ci95_low ci95_high ci_method repetitions outliers drift quick valid "
    "ppl ppl_ratio kld_mean same_top1 mj_per_token energy_source "
    "invalid_reason ttft_ms_p50 tpot_ms_p50 roofline_probe"
)


def _json(results: Sequence[Result]) -> str:
    return encode_results(list(results)).decode()


def _jsonl(results: Sequence[Result]) -> str:
    return msgspec.json.Encoder().encode_lines(results).decode()


def records(results: Sequence[Result]) -> Iterator[dict[str, object]]:
    """One record for each speed test, with the engine's fidelity repeated in each; None: unknown.

    tok/s, shares (`roofline_probe` of what the machine can do), nats per token (`kld_mean`), mJ per
    token and milliseconds, by the names of `COLUMNS`. `invalid_reason`: why a row is not `valid`.
    """
    for r in results:
        f = r.fidelity
        fidelity = (f.ppl, f.ppl_ratio.value, f.kld.mean, f.same_top1.value) if f else (None,) * 4
        head = (r.created, r.engine, r.precision, r.artifact.name, r.environment.device)
        for s in r.speed:
            speed = (s.mean, s.sd, s.median, *s.ci95, s.ci_method, len(s.samples))
            known = (s.outliers, s.drift or 0, s.quick, s.valid)
            test = (s.test, s.isl, s.osl, s.depth, s.batch, *speed, *known)
            told = s.energy is not None and s.energy.mj_per_token is not None
            energy = (s.energy.mj_per_token, s.energy.source) if s.energy and told else (None,) * 2
            times = tuple(t.p50 if t else None for t in (s.ttft_ms, s.tpot_ms))
            why = s.invalid_reason if not s.valid else None
            values = (*head, *test, *fidelity, *energy, why, *times, s.roofline_probe)
            yield dict(zip(COLUMNS.split(), values, strict=True))


def _csv(results: Sequence[Result]) -> str:
    return csv_of(COLUMNS.split(), (record.values() for record in records(results)))


def csv_of(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV: texts in quotes, numbers as they are, nothing for what is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(map(_csv_cell, row))
    return out.getvalue()


def _csv_cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula; nothing for what is unknown."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


FORMATS: dict[str, Callable[[Sequence[Result]], str]] = {
    "md": results_markdown,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "junit": junit,
    "bencher": bencher,
    "github-bigger": github_bigger,
    "github-smaller": github_smaller,
}


def format_named(name: str) -> Callable[[Sequence[Result]], str]:
    """The writer that `-o NAME` means. Raises `BadInput` for an unknown name."""
    if name not in FORMATS:
        raise BadInput(f"unknown format {name!r}", f"choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def writer_named(name: str | None) -> Callable[[Sequence[Result]], None]:
    """What prints results as `-o NAME` means, and as a table where it is None."""
    if name is None:
        return show_results
    write = format_named(name)

    def written(results: Sequence[Result]) -> None:
        print_data(write(results))
        for line in left_out(name, results):
            warn(line)

    return written


# Formats of numbers alone, and of those the ones that hold half of them.
OF_NUMBERS = ("csv", "bencher", "github-bigger", "github-smaller")
HALVES = {"github-bigger": True, "github-smaller": False}


def left_out(name: str, results: Sequence[Result]) -> Iterator[str]:
    """What a format has no place for, a line each."""
    if name not in OF_NUMBERS:
        return
    lost = sum(len(one.failed) + bool(one.error) for one in results)
    if lost:
        yield f"{name} has no place for tests that failed; left out: {lost}"
    if name == "csv":
        texts = dict.fromkeys(text for one in results for text in list(one.judged())[1:])
        if texts:
            yield f"csv has the fidelity of the first text; left out: {', '.join(texts)}"
        return
    rows = [row for one in followed(results) for row in one.speed]
    hidden = sum(not row.valid or row.quick for row in rows)
    if hidden:
        yield f"{name} holds what may be published; rows left out: {hidden} of {len(rows)}"
    if name in HALVES:
        found = [one for result in followed(results) for one in measures(result)]
        other = sum(one.more_is_better != HALVES[name] for one in found)
        rest = next(half for half in HALVES if half != name)
        yield f"{name} holds one half; numbers that are in {rest}: {other}"
