"""What `-o` means: one function for each way to write results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

import msgspec

from llx.errors import BadInput
from llx.reports.console import show_results
from llx.reports.emitters import bencher, github_bigger, github_smaller, junit
from llx.reports.markdown import results_markdown
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
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS.split())
    for record in records(results):
        writer.writerow(map(_csv_cell, record.values()))
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
    return lambda results: print_data(write(results))
