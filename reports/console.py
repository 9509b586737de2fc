"""What is printed: a line, a warning, one table at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from llx.conditions import EnergyRecord
from llx.reports.notes import (
    arithmetic_words,
    ceiling_words,
    explanations,
    row_notes,
    row_times,
    shown_test,
    speed_words,
)
from llx.reports.plain import visible
from llx.reports.scores import score_words
from llx.reports.terminal import STDERR, STDOUT, make_way
from llx.reports.units import alike, binary_bytes, parameters, plus_minus, significant
from llx.result import (
    FIDELITY,
    Against,
    Fidelity,
    MemoryRecord,
    PhaseFidelity,
    Result,
    SpeedRow,
)
from llx.streams import fitting

WIDTH = 80
COLOURS = {
    **dict.fromkeys(("regressed", "slower", "failed", "invalid"), "bold red"),
    **dict.fromkeys(("improved", "faster", "no regression"), "green"),
    **dict.fromkeys(("inconclusive", "not comparable", "doubtful", "warning"), "yellow"),
}
VERDICT = re.compile(rf"({'|'.join(COLOURS)})(?=[:,;]|$)", re.I)
TIMED = "Timed: from tokens on the host to logits on the host. ±: standard deviation."


def plain(text: str) -> Text:
    """Text that is shown as it is: names are untrusted, and may hold markup or terminal escapes."""
    return Text(fitting("\n".join(map(visible, text.split("\n")))))


def simple_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; a heading that starts with `>` aligns its column to the right."""
    table = Table(title=plain(title) if title else None, title_justify="left", box=None)
    table.title_style = "bold"
    table.pad_edge = False
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            fitting(heading.lstrip(">")), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(_coloured, row))
    return table


def _coloured(text: str) -> Text:
    """A cell; a verdict that it begins with is coloured, in a terminal and without NO_COLOR."""
    cell = plain(text)
    found = VERDICT.match(cell.plain)
    if found:
        cell.stylize(COLOURS[found[1].lower()], 0, found.end(1))
    return cell


def show(table: Table) -> None:
    """Print a table to stdout: 80 columns where it is not a terminal."""
    make_way()
    STDOUT.print(table, width=None if STDOUT.is_terminal else WIDTH)


def say(text: str) -> None:
    """One line to stdout, as it is."""
    make_way()
    STDOUT.print(_coloured(text), soft_wrap=True)


def warn(text: str) -> None:
    """One line to stderr, as it is, in the form of an error that does not end the command."""
    STDERR.print(Text(f"llx: {visible(text)}"), soft_wrap=True)


def show_results(results: Sequence[Result]) -> None:
    """Print one table for each artifact, and below them what was timed."""
    for i, table in enumerate(result_tables(results)):
        if i:
            say("")
        show(table)
    if any(result.speed for result in results):
        say(f"\n{TIMED}")
    for note in explanations(results):
        say(note)


def measured_in_words(results: Sequence[Result]) -> str:
    """What was measured, in a line: artifacts, engines, machines."""
    columns = (
        [result.artifact.name for result in results],
        [result.engine for result in results],
        [result.environment.device for result in results],
    )
    artifacts, engines, devices = (", ".join(dict.fromkeys(column)) for column in columns)
    return f"measured: {artifacts} on {engines}; {devices}"


def result_tables(results: Sequence[Result]) -> Iterator[Table]:
    """Speed and fidelity of every engine, one table of 80 columns for each artifact."""
    artifacts = dict.fromkeys((r.artifact.name, r.artifact.sha256) for r in results)
    for artifact in artifacts:
        yield _table([r for r in results if (r.artifact.name, r.artifact.sha256) == artifact])


def _table(results: Sequence[Result]) -> Table:
    rows: list[tuple[str, str, str, str]] = []
    for result in results:
        lines = list(_lines(result))
        for i, line in enumerate(lines):
            rows.append((result.engine if i == 0 else "", *line))
        rows.append(("", "", "", ""))
    return simple_table(_title(results), ("engine", "measure", ">value", "detail"), rows[:-1])


def _title(results: Sequence[Result]) -> str:
    first = results[0]
    devices = ", ".join(dict.fromkeys(result.environment.device for result in results))
    return (
        f"{first.artifact.name} · {parameters(first.artifact.params)} · "
        f"{binary_bytes(first.artifact.bytes)} · {first.precision} · {devices}"
    )


def _precision_lines(result: Result) -> Iterator[tuple[str, str, str]]:
    if result.artifact.quantization:
        yield "weights", result.precision, result.artifact.quantization
    if arithmetic := arithmetic_words(result):
        yield "arithmetic", "", arithmetic


def _lines(result: Result) -> Iterator[tuple[str, str, str]]:
    if result.turns:
        yield "in turns", "candidate" if result.against else "baseline", ""
    if result.error:
        yield "no numbers", "–", f"{result.error.message}: {result.error.remedy}"
        return
    for row in result.speed:
        yield shown_test(row.test, row.batch), f"{speed_words(row)} tok/s", _speed_detail(row)
    if result.against:
        yield from _against_lines(result.against)
    for failed in result.failed:
        yield failed.test, "FAILED", f"{failed.error.message}: {failed.error.remedy}"
    yield from _energy_lines(result)
    yield from _precision_lines(result)
    for text, fidelity in result.judged().items():
        yield from _fidelity_lines(text, fidelity)
    yield from _score_lines(result)
    missing = not (result.fidelity or result.only_scored)
    if missing and all(failed.test != FIDELITY for failed in result.failed):
        yield "fidelity", "not measured", result.unjudged or ""
    if result.memory:
        peak = result.memory.peak_host_bytes
        shown = "not measured" if peak is None else binary_bytes(peak)
        yield "peak memory", shown, f"cache {binary_bytes(result.memory.cache_bytes or 0)}"
        yield from _device_lines(result, result.memory)
    if result.ceiling:
        yield "roofline", *ceiling_words(result.ceiling)
    elif result.no_ceiling:
        yield "roofline", "not measured", result.no_ceiling
    for note in result.environment.notes:
        yield "doubtful", "!", note


def _against_lines(against: Against) -> Iterator[tuple[str, str, str]]:
    """How each test compares with what it was measured in turns with, and the model itself."""
    of = f"{against.engine}, {against.artifact}"
    if model := against.model:
        same = model.same_top1
        yield (
            "KLD to baseline",
            plus_minus(model.kld.mean, model.kld.se),
            f"top-1 {100 * same.value:.2f} ± {100 * same.se:.2f} %, PPL "
            f"{plus_minus(model.ppl_ratio.value, model.ppl_ratio.se)} × that of {of}",
        )
    for test in against.tests:
        ratio, low, high = alike(test.ratio, *test.ci95)
        yield (
            f"{shown_test(test.test, test.batch)} ratio",
            f"{ratio} ×",
            f"{test.verdict.upper()}: CI95 {low}…{high} of {of}; "
            f"noise ±{significant(100 * test.noise, 2)} %, "
            f"threshold {significant(100 * against.threshold, 2)} %",
        )


def _energy_lines(result: Result) -> Iterator[tuple[str, str, str]]:
    """Energy of each test, or one line that says why there is none."""
    measured = [row for row in result.speed if row.energy and row.energy.joules is not None]
    for row in measured:
        assert row.energy is not None
        per = significant(row.energy.mj_per_token or 0.0)
        yield (
            "energy",
            f"{per} mJ/tok",
            f"{shown_test(row.test, row.batch)}: {energy_detail(row.energy)}",
        )
    missing = [row for row in result.speed if row not in measured and row.energy]
    for reason in dict.fromkeys(row.energy.reason for row in missing if row.energy):
        tests = ", ".join(row.test for row in missing if row.energy and row.energy.reason == reason)
        yield "energy", "not measured", f"{tests}: {reason}" if measured else reason or ""


def energy_detail(energy: EnergyRecord) -> str:
    """Where an energy was measured, over what, and what that place uses without an engine."""
    window, idle = energy.window or 0.0, energy.idle_watts
    power = f"{significant((energy.joules or 0.0) / window, 3)} W" if window else ""
    rested = f", {significant(idle, 3)} W before" if idle is not None else ", idle not measured"
    kind = f"{energy.samples} readings, {100 * (energy.coverage or 0.0):.0f} % covered"
    return f"{energy.source} {energy.rail}, {significant(window, 3)} s, {kind}, {power}{rested}"


def _device_lines(result: Result, memory: MemoryRecord) -> Iterator[tuple[str, str, str]]:
    """What lies on a GPU, and the engine that was built for it."""
    if memory.peak_device_bytes is not None:
        yield "GPU memory", binary_bytes(memory.peak_device_bytes), "weights, cache and scratch"
    if memory.engine_bytes is not None:
        build_s = result.time.build_s if result.time else None
        built = f", built in {significant(build_s)} s" if build_s is not None else ""
        yield "engine", binary_bytes(memory.engine_bytes), f"dialect {result.dialect}{built}"


def _speed_detail(row: SpeedRow) -> str:
    if not row.valid:
        return f"INVALID: {row.invalid_reason}"
    low, high = row.ci95
    parts = [f"{name} {significant(times.mean)} ms" for name, times in row_times(row)]
    parts.append(f"CI95 {significant(low)}…{significant(high)}")
    if row.roofline_probe is not None:
        parts.append(f"{100 * row.roofline_probe:.0f} % of the roofline")
    if row.bytes_per_step is not None and row.bytes_per_step_actual is not None:
        read, needed = map(binary_bytes, (row.bytes_per_step_actual, row.bytes_per_step))
        parts.append(f"a step reads {read}{'' if read == needed else f' and must read {needed}'}")
    return ", ".join([*parts, *row_notes(row)])


def _score_lines(result: Result) -> Iterator[tuple[str, str, str]]:
    for name, task, metric in result.scores.metrics() if result.scores else ():
        shots = "" if task.fewshot is None else f", {task.fewshot} shots"
        yield name, score_words(metric), f"{task.documents or 'all'} documents{shots}"


def _fidelity_lines(text: str, fidelity: Fidelity) -> Iterator[tuple[str, str, str]]:
    ratio = fidelity.ppl_ratio
    on, about = (f" of {text}", f"{text}: ") if text else ("", "")
    yield (
        "PPL",
        plus_minus(fidelity.ppl, fidelity.ppl_se),
        f"{plus_minus(ratio.value, ratio.se)} × PyTorch fp32's "
        f"{significant(fidelity.ppl_reference)}, {fidelity.tokens} tokens{on}",
    )
    for name, phase in (("prefill", fidelity.prefill), ("decode", fidelity.decode)):
        kld, same = phase.kld, phase.same_top1
        yield (
            f"KLD {name}",
            plus_minus(kld.mean, kld.se),
            f"{about}{_least(phase)}top-1 {100 * same.value:.2f} ± {100 * same.se:.2f} %, "
            f"logits ±{phase.max_abs_logit_error:.1e}",
        )


def _least(phase: PhaseFidelity) -> str:
    """The bound below the KLD, which no sample is in."""
    return "" if phase.kld_bound is None else f"at least {phase.kld_bound:.1e}, "
