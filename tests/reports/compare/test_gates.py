"""Gates that would let everything pass are none, and numbers that are none pass no gate."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from llx.errors import BadInput
from llx.reports.compare.gates import Gate, read_gates
from llx.reports.compare.pairs import compare_results
from llx.reports.compare.verdicts import measurable
from llx.result import MemoryRecord, Percentiles, TimeRecord, encode_results, read_results
from tests.reports.made import TIMES
from tests.reports.pairs import on, result, speed

ODD = ("nan", "inf", "-inf", "-1", "-0.001", "1e16", "1e308")
SHARES = ("nan%", "inf%", "-5%", "0%", "100%", "1e-400%", "%", "5", "", "1e308%")


@pytest.mark.parametrize(
    "line",
    [
        *(f"{name} = {odd}" for name in ("threshold", "negligible", "limit") for odd in ODD),
        *(f'{name} = "{share}"' for name in ("threshold", "apart") for share in SHARES),
        'metric = ""',
        'engine = ""',
        "required = 1",
        "limit = true",
    ],
)
def test_a_gate_that_guards_nothing_is_refused(tmp_path, line):
    name = line.partition(" ")[0]
    lines = {"metric": 'metric = "KLD *"', "threshold": "threshold = 0.1"}
    lines |= {"kind": 'kind = "deterministic"', name: line}
    path = tmp_path / "gates.toml"
    path.write_text("\n".join(["[[gate]]", *lines.values()]))
    with pytest.raises(BadInput, match="is no file of gates") as refused:
        read_gates(path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["deterministic", "wall clock", "roofline share"])
@pytest.mark.parametrize("engine", ["ort", "none"])
def test_a_required_gate_that_is_about_nothing_fails(kind, engine):
    gate = Gate(metric="tg99", kind=kind, engine=engine, threshold="5%", required=True)
    (failed,) = compare_results([result()], [result()], [gate]).regressed
    assert failed.why == f"required: no result has it ({kind})"
    idle = msgspec.structs.replace(gate, required=False, optional=True)
    assert not compare_results([result()], [result()], [idle]).regressed


def test_a_required_gate_of_another_machine_is_about_something():
    gate = Gate(metric="tg*", kind="roofline share", threshold="5%", required=True)
    measured = on("x", result(row=speed(1, roofline_probe=0.5)))
    assert not compare_results([measured], [measured], [gate]).regressed


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0, 1e300, 1e-300])
@pytest.mark.parametrize("place", ["mean", "samples"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_speed_that_is_none_fails_what_is_required_and_decides_nothing_else(odd, place, side):
    sides = [result(1), result(2)]
    row = sides[side].speed[0]
    wrong = odd if place == "mean" else [odd, *row.samples[1:]]
    sides[side] = replace(sides[side], speed=[replace(row, **{place: wrong})])
    for required in (False, True):
        gate = Gate(metric="tg*", kind="wall clock", threshold="5%", required=required)
        (change,) = [
            one for one in compare_results([sides[0]], [sides[1]], [gate]).changes
            if one.kind == "wall clock"
        ]  # fmt: skip
        lost = required and side == 1
        assert change.verdict == ("regressed" if lost else "inconclusive")
        assert "INVALID" in change.why


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_divergence_that_is_none_regresses(odd):
    found = result()
    phase = found.fidelity.prefill
    wrong = replace(phase, kld=replace(phase.kld, mean=odd))
    after = replace(found, fidelity=replace(found.fidelity, prefill=wrong))
    gate = Gate(metric="KLD prefill", kind="deterministic", threshold="10%", limit=0.02)
    (change,) = compare_results([found], [after], [gate]).regressed
    assert change.metric == "KLD prefill"


@pytest.mark.parametrize("digits", [20, 400])
@pytest.mark.parametrize("field", ["bytes", "seed", "cpus"])
def test_a_whole_number_beyond_all_counts_is_no_result(tmp_path, digits, field):
    data = encode_results([result()]).decode()
    found = msgspec.json.decode(data)
    place = {"bytes": found[0]["artifact"], "seed": found[0]["speed"][0]}.get(field)
    if place is None:
        place = found[0]["environment"].get("machine") or found[0]["details"]
    place[field] = 123
    text = (
        msgspec.json.encode(found).decode().replace(f'"{field}":123', f'"{field}":{"9" * digits}')
    )
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match="beyond 64 bits"):
        read_results(tmp_path / "a.json")


def test_all_mistakes_of_a_file_are_told_at_once_each_with_its_gate(tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text(
        '[[gate]]\nmetric = "a"\nthreshold = "5"\n'
        '[[gate]]\nmetric = "KLD *"\nlimit = 0.1\n'
        '[[gate]]\nmetric = "b"\n'
        '[[gate]]\nmetric = "c"\nlimitt = 1\n'
        '[[gate]]\nmetric = "d"\nlimit = 1\nrequired = true\noptional = true\n'
    )
    with pytest.raises(BadInput) as refused:
        read_gates(path)
    said = str(refused.value)
    assert all(f"gate {number}, {name!r}" in said for number, name in ((1, "a"), (3, "b")))
    assert all(f"gate {number}, {name!r}" in said for number, name in ((4, "c"), (5, "d")))
    assert "gate 2" not in said
    assert len(said.splitlines()) == 1


MEASURED = replace(
    result(1),
    speed=[
        speed(
            1,
            test="128:32",
            ttft_ms=TIMES,
            e2e_ms=TIMES,
            itl_ms=Percentiles(p50=9.0, p90=10.0, p95=11.0, p99=12.0),
            roofline_probe=0.5,
        )
    ],
    memory=MemoryRecord(
        peak_host_bytes=10**9, peak_device_bytes=10**8, cache_bytes=10**7, engine_bytes=10**6
    ),
    time=TimeRecord(load_s=1.0, loads_s=[1.0], build_s=9.0),
    artifact=replace(result().artifact, graph_nodes={"standard": 100}),
)


def worse(value, more_is_better):
    return value / 3 if more_is_better else value * 3


def made_worse(metric, kind):
    """MEASURED with one number three times as bad, by what a gate calls it."""
    row, fidelity = MEASURED.speed[0], MEASURED.fidelity
    if metric.startswith(("TTFT", "TPOT", "E2E", "ITL")):
        name, part = metric.partition(",")[0].split()
        field = f"{name.lower()}_ms"
        times = getattr(row, field)
        changed = replace(times, **{part: getattr(times, part) * 3})
        return replace(MEASURED, speed=[replace(row, **{field: changed})])
    if metric.startswith("energy"):
        energy = replace(row.energy, mj_per_token=row.energy.mj_per_token * 3)
        return replace(MEASURED, speed=[replace(row, energy=energy)])
    if metric.startswith("bytes a step"):
        changed = replace(row, bytes_per_step_actual=row.bytes_per_step_actual * 3)
        return replace(MEASURED, speed=[changed])
    if metric == "128:32":
        slow = [sample / 3 for sample in row.samples]
        return replace(MEASURED, speed=[replace(row, samples=slow, mean=row.mean / 3)])
    if metric.endswith("of the roofline"):
        changed = replace(MEASURED, speed=[replace(row, roofline_probe=row.roofline_probe / 3)])
        return on("elsewhere", changed)
    if metric in ("load time", "build time"):
        field = {"load time": "load_s", "build time": "build_s"}[metric]
        changed = replace(MEASURED.time, **{field: getattr(MEASURED.time, field) * 3})
        return replace(MEASURED, time=changed)
    if metric == "artifact bytes":
        return replace(MEASURED, artifact=replace(MEASURED.artifact, bytes=3000))
    if metric == "graph nodes":
        return replace(MEASURED, artifact=replace(MEASURED.artifact, graph_nodes={"standard": 300}))
    if metric in ("peak host memory", "peak device memory", "cache bytes", "engine bytes"):
        field = {"cache bytes": "cache_bytes", "engine bytes": "engine_bytes"}.get(metric)
        field = field or f"{metric.replace(' memory', '').replace(' ', '_')}_bytes"
        changed = replace(MEASURED.memory, **{field: getattr(MEASURED.memory, field) * 3})
        return replace(MEASURED, memory=changed)
    name, phase = metric.rsplit(" ", 1)
    old = getattr(fidelity, phase)
    new = {
        "KLD": lambda: replace(old, kld=replace(old.kld, mean=0.5)),
        "PPL": lambda: replace(old, ppl=old.ppl * 3),
        "PPL ratio": lambda: replace(old, ppl_ratio=replace(old.ppl_ratio, value=3.0)),
        "same top-1": lambda: replace(old, same_top1=replace(old.same_top1, value=0.3)),
    }[name]()
    return replace(MEASURED, fidelity=replace(fidelity, **{phase: new}))


@pytest.mark.parametrize(("metric", "kind", "engine"), list(measurable([MEASURED])))
def test_every_number_can_be_gated_by_its_name_and_by_a_limit_alone(metric, kind, engine):
    after, before = made_worse(metric, kind), MEASURED
    gate = Gate(metric=metric, kind=kind, threshold="5%", apart="20%")
    found = compare_results([before], [after], [gate])
    (failed,) = found.regressed
    assert (failed.metric, failed.kind, failed.engine) == (metric, kind, engine)
    assert not compare_results([before], [before], [gate]).regressed
    middle = math.sqrt(failed.before * failed.after) if failed.before else failed.after / 2
    limit = Gate(metric=metric, kind=kind, limit=middle)
    (failed,) = compare_results([before], [after], [limit]).regressed
    assert failed.why == f"beyond the limit of {middle:g}"
    assert not compare_results([before], [before], [limit]).regressed


def test_what_can_be_gated_is_everything_that_a_result_says():
    names = {metric for metric, _, _ in measurable([MEASURED])}
    assert {"TTFT p50, 128:32", "ITL p99, 128:32", "E2E p95, 128:32", "TPOT p90, 128:32"} <= names
    assert {"peak host memory", "load time", "build time", "energy, 128:32", "PPL decode"} <= names
    assert {"128:32", "128:32 of the roofline", "graph nodes", "engine bytes"} <= names


def test_latencies_are_compared_where_a_gate_names_them_and_else_left_alone():
    shown = {change.metric for change in compare_results([MEASURED], [MEASURED]).changes}
    assert not any("TTFT" in metric for metric in shown)
    gate = Gate(metric="TTFT p50, *", threshold="5%")
    shown = {change.metric for change in compare_results([MEASURED], [MEASURED], [gate]).changes}
    assert "TTFT p50, 128:32" in shown
    assert "TTFT p90, 128:32" not in shown


def test_a_larger_graph_is_shown_and_fails_nothing_unless_a_gate_is_about_it():
    found = compare_results([MEASURED], [made_worse("graph nodes", "deterministic")])
    (change,) = [one for one in found.changes if one.metric == "graph nodes"]
    assert change.ungated
    assert not found.regressed
