"""What `llx plan` prints: predictions for people, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import msgspec
from rich.table import Table

from llx.devices import Figure
from llx.plans import Build, Disk, Phase, Plan, Plans
from llx.reports.console import WIDTH, say, show, simple_table
from llx.reports.units import decimal_bytes, parameters, significant


def plans_json(plans: Sequence[Plans]) -> str:
    """All of them as `llx.plan/1`: of several precisions a list."""
    told = plans[0] if len(plans) == 1 else plans
    return msgspec.json.format(msgspec.json.encode(told), indent=1).decode()


def show_plans(all_plans: Sequence[Plans]) -> None:
    """Print predictions: a line for each device or precision, or everything about the only one."""
    plans = all_plans[0]
    sizes = plans.sizes
    precisions = ", ".join(one.precision for one in all_plans)
    say(f"{plans.model} · {parameters(plans.parameters)} · {precisions}")
    say(f"cache of {sizes.capacity} positions, batch {sizes.rows}, prompt of {sizes.prompt} tokens")
    say("A prediction from sizes and specifications: nothing was measured.\n")
    single = len(plans.plans) == 1
    if len(all_plans) > 1:
        show(_of_one_device(all_plans) if single else _of_precisions(all_plans))
        notes = _notes_of_several(all_plans)
    else:
        show(_single_table(plans, plans.plans[0]) if single else _table(plans))
        notes = _notes(plans, single)
    say("")
    for note in notes:
        say(_wrapped(note))


MOST_IN_FULL = 3  # precisions beside one another in 80 columns with what is left of the memory


def _of_precisions(all_plans: Sequence[Plans]) -> Table:
    """A line for each device: of each precision what is left of the memory, and how it decodes."""
    full = len(all_plans) <= MOST_IN_FULL
    headings = ["device", ">GB"]
    for one in all_plans:
        short = one.precision.replace("-vocab-int8", "+v")
        headings += [f">{short}\nleft"] * full + [f">{short if not full else ''}\ntg"]
    rows = []
    for i, first in enumerate(all_plans[0].plans):
        cells = [first.device.name, f"{first.device.memory_gb.value:g}"]
        for one in all_plans:
            plan = one.plans[i]
            rate = _rate(plan.decode.tok_per_s_realistic, "?")
            fits = f"no {plan.lacks}" if plan.lacks else rate
            cells += [f"{plan.memory.left_bytes / 1e9:.1f}"] * full
            cells += [fits if plan.memory.fits else "–"]
        rows.append(cells)
    return simple_table("", headings, rows)


def _of_one_device(all_plans: Sequence[Plans]) -> Table:
    """A line for each precision, on the only device."""
    device = all_plans[0].plans[0].device
    prefill = f">pp{all_plans[0].sizes.prompt}"
    headings = ("precision", ">needed", ">left", "fits", f"{prefill}\nspec", f"{prefill}\nreal.")
    rows = []
    for one in all_plans:
        (plan,) = one.plans
        _, _, fits, left, *speeds, _ = _row(plan)
        rows.append((one.precision, f"{plan.memory.needed_bytes / 1e9:.1f}", left, fits, *speeds))
    title = f"{device.title}, {device.memory_gb.value:g} GB"
    return simple_table(title, (*headings, ">tg\nspec", ">tg\nreal."), rows)


def _notes_of_several(all_plans: Sequence[Plans]) -> list[str]:
    """What the figures mean, where there are several precisions."""
    plans = all_plans[0]
    single = len(plans.plans) == 1
    needed = ", ".join(
        f"{one.precision} {decimal_bytes(one.plans[0].memory.weights_bytes)}" for one in all_plans
    )
    return [
        f"Weights: {needed}; KV cache {decimal_bytes(plans.plans[0].memory.cache_bytes)}. left: "
        "GB, after cache, activations and what is set aside, an assumption.",
        f"tok/s of all rows; {'real.' if single else 'tg'}: at {100 * plans.bandwidth_share:.0f} % "
        f"of the specified bandwidth and {100 * plans.compute_share:.0f} % of the compute. –: it "
        "does not fit; ?: a figure that it needs is unknown.",
        "Fewer bits cost accuracy, which is not predicted: judge an artifact with `llx bench`.",
        *(plans.plans[0].notes if single else ()),
        *_unchecked(plans),
        *_build_notes([one.build for one in all_plans if one.build]),
        _disk_note(
            *max(
                ((one.disk, one.precision) for one in all_plans),
                key=lambda one: one[0].needed_bytes,
            )
        ),
    ]


def _unchecked(plans: Plans) -> list[str]:
    """Which devices' figures, of those that these predictions rest on, nobody has looked up."""
    names = []
    for plan in plans.plans:
        device = plan.device
        used = (
            device.memory_gb,
            device.bandwidth_gb_per_s,
            device.fp16_tflops,
            device.int8_tops,
            device.fp8_tflops,
        )
        if any(figure is not None and figure.source == "M" for figure in used):
            names.append(device.name)
    if not names:
        return []
    if len(plans.plans) == 1:
        return [
            f"Not every figure of {names[0]} was checked against a source: those marked [M] are "
            "from memory."
        ]
    return [
        f"Not checked against a source, but from memory, are figures of {', '.join(names)}: which, "
        "--device NAME says."
    ]


def _build_notes(builds: list[Build]) -> list[str]:
    if not builds:
        return []
    most = max(builds, key=lambda one: one.disk_bytes)
    return [
        f"engine: to build one takes up to {decimal_bytes(most.disk_bytes)} of disk beside "
        f"the artifact and {decimal_bytes(most.memory_bytes)} of memory at least; TensorRT "
        "builds where the GPU is, TensorRT-RTX anywhere. How long it takes is not predicted."
    ]


def _table(plans: Plans) -> Table:
    """One line for each device, in 80 columns."""
    prefill = f">pp{plans.sizes.prompt}"
    headings = ("device", ">GB", "fits", ">left", f"{prefill}\nspec", f"{prefill}\nreal.")
    rows = [_row(plan) for plan in plans.plans]
    return simple_table("", (*headings, ">tg\nspec", ">tg\nreal.", "best"), rows)


def _row(plan: Plan) -> tuple[str, ...]:
    memory, phases = plan.memory, (plan.prefill, plan.decode)
    fits = f"no {plan.lacks}" if plan.lacks else "yes" if memory.fits else "no"
    # What does not fit has no speed there; -o json keeps what it would be.
    speeds = [
        _rate(rate, "?") if memory.fits else "–" for phase in phases for rate in _rates(phase)
    ]
    return (
        plan.device.name,
        f"{plan.device.memory_gb.value:g}",
        fits,
        f"{memory.left_bytes / 1e9:.1f}",
        *speeds,
        plan.best_precision or "none",
    )


def _rates(phase: Phase) -> tuple[float | None, float | None]:
    return phase.tok_per_s_at_spec, phase.tok_per_s_realistic


def _rate(tok_per_s: float | None, unknown: str = "unknown") -> str:
    return unknown if tok_per_s is None else significant(tok_per_s, 3)


def _single_table(plans: Plans, plan: Plan) -> Table:
    """Everything about one device."""
    device = plan.device
    rows = [
        ("device", device.name, f"{device.title}, SM {device.sm}"),
        ("", "", f"computes in {', '.join(device.precisions)}"),
        ("bandwidth", _known(device.bandwidth_gb_per_s, "GB/s"), ""),
        ("fp16", _known(device.fp16_tflops, "TFLOP/s"), "dense"),
        ("int8", _known(device.int8_tops, "TOP/s"), "dense"),
        ("fp8", _known(device.fp8_tflops, "TFLOP/s", "fp8" in device.precisions), "dense"),
        ("power", _known(device.power_w, "W"), ", ".join(device.power_modes)),
        ("", "", ""),
        *_memory_rows(plans, plan),
        ("", "", ""),
        *_phase_rows("decode step", plan.decode),
        *_phase_rows(f"prefill of {plans.sizes.prompt}", plan.prefill),
    ]
    return simple_table("", ("", ">value", "detail"), rows)


def _known(figure: Figure | None, unit: str, exists: bool = True) -> str:
    if figure:
        return f"{figure.value:g} {unit} [{figure.source}]"
    return "unknown" if exists else "none"


def _memory_rows(plans: Plans, plan: Plan) -> list[tuple[str, str, str]]:
    memory, sizes = plan.memory, plans.sizes
    per_position = memory.cache_bytes // (sizes.capacity * sizes.rows)
    shared = plan.device.shared_memory
    return [
        ("weights", decimal_bytes(memory.weights_bytes), "with the RoPE tables"),
        ("KV cache", decimal_bytes(memory.cache_bytes), f"{per_position} bytes a position"),
        (
            "activations",
            decimal_bytes(memory.activation_bytes),
            f"estimated for a step of {sizes.max_new_tokens} tokens",
        ),
        ("needed", decimal_bytes(memory.needed_bytes), "the sum of these"),
        ("memory", _known(plan.device.memory_gb, "GB"), "shared with the OS" if shared else ""),
        (
            "set aside",
            decimal_bytes(memory.reserved_bytes),
            f"{'firmware, OS and CUDA' if shared else 'driver and CUDA'}, an assumption",
        ),
        ("left", decimal_bytes(memory.left_bytes), "it fits" if memory.fits else "does not fit"),
        ("best precision", plan.best_precision or "none", "that fits"),
    ]


def _phase_rows(name: str, phase: Phase) -> list[tuple[str, str, str]]:
    compute = "unknown" if phase.compute_ms is None else f"{significant(phase.compute_ms, 3)} ms"
    times = f"memory {significant(phase.memory_ms, 3)} ms, compute {compute}"
    bound = f"bound by {phase.bound}" if phase.bound else "bound unknown"
    at_spec, realistic = map(_rate, _rates(phase))
    return [
        (name, decimal_bytes(phase.read_bytes), f"to read; {phase.flops / 1e9:.4g} GFLOP; {bound}"),
        ("", "", times),
        ("", f"{at_spec} tok/s", "predicted at 100 % of the specification"),
        ("", f"{realistic} tok/s", "predicted at a realistic share"),
    ]


def _notes(plans: Plans, single: bool) -> list[str]:
    """What the figures mean and where they end, under the table."""
    notes = []
    if plans.precision.startswith(("int", "fp8")):
        notes.append("Only the blocks' linear layers are quantized; the rest is not.")
    if plans.precision.startswith(("int8-wo", "int4")):
        notes.append(
            "Weights alone are quantized, which costs accuracy: judge an artifact with `llx bench`."
        )
    elif plans.precision.startswith("fp8"):
        notes.append("fp8 costs accuracy: judge an artifact with `llx bench`.")
    elif plans.precision.startswith("int8"):
        notes.append(
            "int8 costs accuracy: judge an artifact with `llx bench`. A tenth of the linear "
            "layers' work stays fp16 unless asked otherwise, which is not counted here."
        )
    notes.append(
        f"tok/s of all rows. spec: 100 % of the specification; realistic: "
        f"{100 * plans.bandwidth_share:.0f} % of its bandwidth and {100 * plans.compute_share:.0f} "
        f"% of its compute. decode (tg): with {plans.sizes.prompt} positions filled; realistic: "
        f"all {plans.sizes.capacity} of the cache are read, as an engine does (--context)."
    )
    if single:
        notes += plans.plans[0].notes
    else:
        notes += _common_notes(plans)
    notes += _unchecked(plans)
    notes.append("; ".join(f"[{letter}] {meaning}" for letter, meaning in plans.sources.items()))
    notes += _build_notes([plans.build] if plans.build else [])
    notes.append(_disk_note(plans.disk, plans.precision))
    return notes


def _disk_note(disk: Disk, precision: str) -> str:
    verdict = "enough" if disk.enough else "NOT ENOUGH"
    needed, free = decimal_bytes(disk.needed_bytes), decimal_bytes(disk.free_bytes)
    return f"disk: an export in {precision} needs {needed}; {free} are free here: {verdict}."


def _common_notes(plans: Plans) -> list[str]:
    """What the table has no column for: memory, what bounds each phase, what is unknown."""
    memory = plans.plans[0].memory
    reserves = {p.device.shared_memory: p.memory.reserved_bytes for p in plans.plans}
    reasons = {True: "where memory is shared with the OS", False: "elsewhere, for driver and CUDA"}
    aside = ", ".join(f"{decimal_bytes(n)} {reasons[key]}" for key, n in reserves.items())
    notes = [
        f"needed: {decimal_bytes(memory.weights_bytes)} weights, "
        f"{decimal_bytes(memory.cache_bytes)} KV cache, "
        f"{decimal_bytes(memory.activation_bytes)} activations (estimated). left: GB after "
        f"that and what is set aside, an assumption: {aside}. "
        "best: the precision that fits and loses least.",
        "–: it does not fit; ?: a figure that it needs is unknown.",
    ]
    notes.append(_bound_note("decode", {p.device.name: p.decode for p in plans.plans}))
    notes.append(_bound_note("prefill", {p.device.name: p.prefill for p in plans.plans}))
    lacking = [f"{p.device.name} has no {p.lacks}" for p in plans.plans if p.lacks]
    if lacking:
        notes.append(f"{', '.join(lacking)}: no speed is predicted.")
    notes.append("The sources of each specification: `-o json`, or name one --device.")
    return notes


def _bound_note(name: str, phases: dict[str, Phase]) -> str:
    """What bounds a phase: the devices by name, but for the largest group."""
    groups: dict[str, list[str]] = {}
    for device, phase in phases.items():
        groups.setdefault(f"by {phase.bound}" if phase.bound else "unknown", []).append(device)
    usual = max(groups, key=lambda bound: len(groups[bound]))
    others = [f"{bound} on {', '.join(names)}" for bound, names in groups.items() if bound != usual]
    return f"{name}: bound {'; '.join([*others, f'{usual} on the others' if others else usual])}."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)
