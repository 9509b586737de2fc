"""Gates that would let everything pass are none, and numbers that are none pass no gate."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from llx.errors import BadInput
from llx.reports.compare.gates import Gate, read_gates
from llx.reports.compare.pairs import compare_results
from llx.result import encode_results, read_results
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
    assert not compare_results([result()], [result()], [replace_gate(gate)]).regressed


def replace_gate(gate):
    return msgspec.structs.replace(gate, required=False)


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
