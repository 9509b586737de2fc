"""Results as Markdown: tables that paste into an issue, with what makes them repeatable below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from llx.reports.notes import (
    OWN_TEXT,
    arithmetic_words,
    ceiling_words,
    row_notes,
    row_times,
    speed_cell,
)
from llx.reports.plain import visible
from llx.reports.scores import score_table
from llx.reports.units import alike, binary_bytes, parameters, plus_minus, significant
from llx.result import EnvironmentRecord, Fidelity, Result

TIMED_REGION = (
    "Inside the timed region: tokens on the host to logits on the host, ended by the engine's "
    "sync. Tokenizing and sampling are outside. `±` is one standard deviation of the repetitions; "
    "where some of them lie far off, the median stands for the mean."
)


ENERGY = (
    "Energy of the timed steps of all repetitions, over the tokens that they generated, or those "
    "of the prompt for `pp`. What the same rail used before the engine was loaded stands beside; "
    "nothing is subtracted."
)


# Nothing in it can begin markup, a link, a mention of somebody or a reference.
HARMLESS = re.compile(r"[\w .,;:±…%×→↓↑'()+=/–·-]*")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a heading that starts with `>` aligns its column to the right.

    What the rows hold is shown as it is, whoever wrote it.
    """
    return raw_table(headings, ([safe(cell).replace("|", "\\|") for cell in row] for row in rows))


def raw_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown, written by us."""
    rules = ["--:" if heading.startswith(">") else "---" for heading in headings]
    named = [heading.lstrip(">") for heading in headings]
    return "\n".join("| " + " | ".join(line) + " |" for line in [named, rules, *rows])


def safe(text: str) -> str:
    """Text of a result as it is: what Markdown or GitHub could take for more becomes code."""
    text = visible(text)
    if HARMLESS.fullmatch(text) and "://" not in text and "www." not in text.lower():
        return text
    return code(text)


def code(text: str) -> str:
    """Text in a code span, which no text can leave."""
    text = visible(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def results_markdown(results: Sequence[Result]) -> str:
    """Speed, fidelity and their conditions."""
    sections = [
        _against(results),
        _speed(results),
        _notes(results),
        _energy(results),
        _fidelity(results),
        _scores(results),
        _errors(results),
        _conditions(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _speed(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        artifact = result.artifact
        for row in result.speed:
            low, high = row.ci95
            took = (f"{name} {plus_minus(t.mean, t.sd)}" for name, t in row_times(row))
            rows.append(
                (
                    artifact.name,
                    parameters(artifact.params),
                    binary_bytes(artifact.bytes),
                    result.precision,
                    result.engine,
                    str(row.batch),
                    row.test,
                    speed_cell(row) + ("" if row.valid else f": {row.invalid_reason}"),
                    f"{significant(low)} … {significant(high)}",
                    ", ".join(took),
                    *map(_bytes, (row.bytes_per_step_actual, row.bytes_per_step)),
                    "" if row.roofline_probe is None else f"{100 * row.roofline_probe:.0f} %",
                    ", ".join(row_notes(row)),
                )
            )
    headings = ("model", ">params", ">size", "precision", "engine", ">batch", ">test")
    ends = (">tok/s", ">CI95", ">ms", ">read a step", ">must be read", ">roofline", "note")
    return markdown_table((*headings, *ends), rows) if rows else ""


def _notes(results: Sequence[Result]) -> str:
    """What makes wall-clock numbers doubtful, under them."""
    return "\n".join(
        f"- **{safe(result.engine)}** with {safe(result.artifact.name)}, doubtful: {safe(note)}"
        for result in results
        for note in result.environment.notes
    )


def _energy(results: Sequence[Result]) -> str:
    rows, without = [], []
    for result in results:
        records = [row.energy for row in result.speed if row.energy]
        if records and all(record.joules is None for record in records):
            without.append(
                f"- **{safe(result.engine)}** with {safe(result.artifact.name)}: energy not "
                f"measured; {'; '.join(dict.fromkeys(safe(one.reason or '') for one in records))}"
            )
            continue
        for row in result.speed:
            energy = row.energy
            if energy is None:
                continue
            told = energy.joules is not None and energy.window
            rows.append(
                (
                    result.artifact.name,
                    result.engine,
                    str(row.batch),
                    row.test,
                    significant(energy.mj_per_token or 0.0) if told else "not measured",
                    significant((energy.joules or 0.0) / (energy.window or 1.0), 3) if told else "",
                    "" if energy.idle_watts is None else significant(energy.idle_watts, 3),
                    f"{energy.source}, {energy.rail}" if energy.source else "",
                    significant(energy.window, 3) if energy.window else "",
                    f"{energy.samples} readings, {100 * (energy.coverage or 0.0):.0f} % covered"
                    if told
                    else energy.reason or "",
                )
            )
    headings = ("model", "engine", ">batch", ">test", ">mJ/tok", ">W", ">W before, idle")
    ends = ("source, rail", ">window s", "how")
    table = [markdown_table((*headings, *ends), rows), ENERGY] if rows else []
    return "\n\n".join(table + (["\n".join(without)] if without else []))


def _against(results: Sequence[Result]) -> str:
    """The verdicts of what was measured in turns."""
    rows = [
        (
            test.verdict,
            f"{result.engine}, {result.artifact.name}",
            f"{against.engine}, {against.artifact}",
            test.test,
            str(test.batch),
            f"{times[0]} ×",
            " … ".join(times[1:]),
            f"{significant(100 * test.noise, 2)} %",
            f"{significant(100 * against.threshold, 2)} %",
        )
        for result in results
        if (against := result.against)
        for test in against.tests
        for times in [alike(test.ratio, *test.ci95)]
    ]
    headings = ("verdict", "engine", "against", ">test", ">batch", ">ratio", ">CI95")
    table = [markdown_table((*headings, ">noise", ">threshold"), rows)] if rows else []
    return "\n\n".join([*table, *_models_beside(results)])


def _models_beside(results: Sequence[Result]) -> Iterator[str]:
    """How far candidates are from their baselines, as distributions."""
    for result in results:
        if result.against and (model := result.against.model):
            same = model.same_top1
            yield (
                f"{_of(result)}: KLD {plus_minus(model.kld.mean, model.kld.se)} nats a token from "
                f"the baseline's own distributions, top-1 {100 * same.value:.2f} ± "
                f"{100 * same.se:.2f} %, PPL "
                f"{plus_minus(model.ppl_ratio.value, model.ppl_ratio.se)} times the baseline's."
            )


def _bytes(count: int | None) -> str:
    return "" if count is None else binary_bytes(count)


def _fidelity(results: Sequence[Result]) -> str:
    rows = []
    several = any(text for result in results for text in result.judged())
    for result in results:
        for name, text, phase in result.phases():
            same = phase.same_top1
            rows.append(
                (
                    result.artifact.name,
                    result.engine,
                    *([text or OWN_TEXT] if several else []),
                    name,
                    str(phase.tokens),
                    plus_minus(phase.ppl, phase.ppl_se),
                    plus_minus(phase.ppl_ratio.value, phase.ppl_ratio.se),
                    plus_minus(phase.kld.mean, phase.kld.se),
                    "" if phase.kld_bound is None else f"{phase.kld_bound:.1e}",
                    f"{phase.kld.p99:.1e}",
                    f"{100 * same.value:.2f} ± {100 * same.se:.2f} %",
                    plus_minus(phase.rms_dp.value, phase.rms_dp.se),
                    f"{phase.max_abs_logit_error:.1e}",
                )
            )
    of = ("model", "engine", *(["text"] if several else []), "phase")
    headings = (*of, ">tokens", ">PPL", ">PPL ratio", ">KLD")
    ends = (">KLD at least", ">KLD p99", ">same top-1", ">RMS Δp", ">max logit error")
    return markdown_table((*headings, *ends), rows) if rows else ""


def _scores(results: Sequence[Result]) -> str:
    scored = [result for result in results if result.scores]
    return markdown_table(*score_table(scored)) if scored else ""


def _errors(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        of = f"- **{safe(result.engine)}** with {safe(result.artifact.name)} has no"
        errors = [("numbers", result.error)] if result.error else []
        errors += [(failed.test, failed.error) for failed in result.failed]
        lines += [f"{of} {safe(what)}. {safe(f'{e.message}: {e.remedy}')}" for what, e in errors]
    return "\n".join(lines)


def _conditions(results: Sequence[Result]) -> str:
    lines = [TIMED_REGION] if any(result.speed for result in results) else []
    lines += [repetitions_sentence(results)] if lines else []
    protocols = {protocol_sentence(one) for r in results for one in r.judged().values()}
    lines += sorted(protocols)
    lines += dict.fromkeys(_machine(result) for result in results)
    lines += list(_loads(results))
    lines += [
        f"{_of(result)}: roofline of {safe(' and '.join(ceiling_words(result.ceiling)))}."
        for result in results
        if result.ceiling
    ]
    lines += [_engine(result) for result in results if result.memory and result.memory.engine_bytes]
    commands = dict.fromkeys(result.command for result in results)
    return "\n\n".join(lines + [f"Repeat with {code(command)}." for command in commands])


def repetitions_sentence(results: Sequence[Result]) -> str:
    """How often each test ran, and what its interval is."""
    rows = [row for result in results for row in result.speed]
    counts = sorted({len(row.samples) for row in rows})
    warmups = sorted({row.warmup for row in rows if row.warmup is not None})
    methods = dict.fromkeys(row.ci_method for row in rows if row.ci_method)
    said = f"Repetitions: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}"
    if warmups:
        said += f", after {', '.join(map(str, warmups))} to warm up"
    return f"{said}; CI95: {'; '.join(map(safe, methods))}." if methods else f"{said}."


def _machine(result: Result) -> str:
    environment = result.environment
    versions = ", ".join(f"{name} {v}" for name, v in environment.versions.items())
    parts = (
        environment.device,
        environment.os,
        f"Python {environment.python}",
        versions,
        f"clocks: {environment.clocks}",
        f"power mode: {environment.power_mode}{_machine_details(environment)}",
    )
    return f"{'; '.join(map(safe, parts))}; fingerprint {code(environment.device_fingerprint)}."


def _machine_details(environment: EnvironmentRecord) -> str:
    """What of a machine its name does not say: cores, nodes, limits."""
    machine = environment.machine
    if machine is None:
        return ""
    container = machine.container
    facts = (
        machine.cores and f"{machine.cores} cores",
        None if machine.smt is None else f"SMT {'on' if machine.smt else 'off'}",
        machine.numa_nodes and machine.numa_nodes > 1 and f"{machine.numa_nodes} NUMA nodes",
        machine.virtual and "a virtual machine",
        machine.usable_cpus
        and machine.usable_cpus < machine.cpus
        and f"{machine.usable_cpus} CPUs usable",
        container.cpus and f"limited to {container.cpus:g} CPUs",
        container.memory_bytes and f"limited to {binary_bytes(container.memory_bytes)}",
        environment.gpu
        and environment.gpu.power_limit_watts
        and f"GPU held to {environment.gpu.power_limit_watts:g} W",
    )
    return "".join(f"; {fact}" for fact in facts if fact)


def _loads(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        before, after = result.environment.load_before, result.environment.load_after
        threads = result.environment.threads
        if before is not None and after is not None:
            yield (
                f"{_of(result)}: {threads or '?'} threads, "
                f"load {before:.1f} before, {after:.1f} after{_meanwhile(result.environment)}; "
                f"weights: {safe(result.artifact.weights)}{_arithmetic(result)}; "
                f"{safe(result.created)}."
            )


def _arithmetic(result: Result) -> str:
    words = arithmetic_words(result)
    return f"; multiplied: {safe(words)}" if words else ""


def _meanwhile(environment: EnvironmentRecord) -> str:
    """What else happened on the machine during a run, as far as it was seen."""
    run = environment.run
    if run is None or run.others_cpu is None:
        return ", others not measured"
    return f", others used {run.others_cpu:.2f} of a core"


def _engine(result: Result) -> str:
    """A built engine, and what it says of itself."""
    details = ", ".join(f"{name} {value}" for name, value in result.details.items())
    memory = result.memory.peak_device_bytes if result.memory else None
    return f"{_of(result)}: {safe(details)}; GPU memory {_bytes(memory)}."


def _of(result: Result) -> str:
    return f"{safe(result.artifact.name)}, {safe(result.engine)}"


def protocol_sentence(fidelity: Fidelity) -> str:
    """How fidelity was measured, in two sentences."""
    scored = "every token after a window's first"
    if fidelity.scored:
        scored = f"the last {fidelity.scored} tokens of each window"
    return (
        f"Fidelity against PyTorch fp32 ({safe(fidelity.reference_weights)}) on "
        f"{fidelity.windows} windows of {fidelity.window} tokens, stride {fidelity.stride}, "
        f"BOS: {safe(fidelity.bos)}, "
        f"{scored} scored; corpus: {safe(fidelity.corpus)}, sha256 "
        f"{code(fidelity.corpus_sha256[:16] + '…')}. KLD and logit errors from the reference's "
        f"{fidelity.top_k} likeliest tokens and {fidelity.tail_samples} drawn from the "
        "others, an estimate without bias; that it is at least follows from the likeliest, "
        "and all others as one; decode feeds one token a step, "
        f"{fidelity.windows} rows in lockstep. "
        "`±` is one standard error over tokens."
    )
