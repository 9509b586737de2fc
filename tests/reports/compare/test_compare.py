"""Results against a baseline's: what is paired, each kind of verdict, what is shown."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from llx.errors import EXIT_GATE_FAILED, BadInput
from llx.reports.compare.changes import (
    changes_json,
    changes_markdown,
    changes_table,
    settings_table,
    verdict_line,
)
from llx.reports.compare.gates import GATES, Gate, read_gates
from llx.reports.compare.pairs import compare_results, in_turns, paired
from llx.result import FIDELITY, Ceiling, FailedTest
from tests.reports.made import CRASH, ERROR, RESULT, TIMES
from tests.reports.pairs import judged, on, result, speed, turned


def verdicts(baseline, results, gates=GATES):
    changes = compare_results([baseline], [results], gates).changes
    return {change.metric: change.verdict for change in changes}


def test_two_runs_of_one_thing_have_not_changed():
    for seed in range(50):
        found = compare_results([result(seed)], [result(seed + 100)])
        assert not found.regressed
        of = {change.metric: change.verdict for change in found.changes}
        assert of.pop("tg128") == "inconclusive"  # wall clocks of two runs cannot tell
        assert set(of.values()) == {"no change"}


def test_a_large_loss_of_speed_between_two_runs_is_a_regression_that_is_named():
    found = compare_results([result(1)], [result(2, faster=0.4)])
    assert [change.metric for change in found.regressed] == ["tg128"]
    assert "REGRESSED: tg128 on ort" in verdict_line(found)
    assert verdicts(result(1), result(2, faster=2.5))["tg128"] == "improved"


def test_a_loss_that_two_runs_of_one_thing_may_show_is_inconclusive_unless_in_turns():
    slower = result(2, faster=0.6)
    (change,) = [c for c in compare_results([result(1)], [slower]).changes if c.metric == "tg128"]
    assert change.verdict == "inconclusive"
    assert change.why == "in two runs, not beyond a factor of 2"
    assert "--against" in compare_results([result(1)], [slower]).notes[-1]
    baseline, candidate = turned(0.9, "slower")
    assert verdicts(baseline, candidate)["tg128"] == "regressed"


def test_a_gate_says_how_far_apart_two_runs_of_one_thing_are_on_its_machine():
    steady = [Gate(metric="tg*", kind="wall clock", threshold="5%", apart="3%")]
    assert verdicts(result(1), result(2), gates=steady)["tg128"] == "no change"
    assert verdicts(result(1), result(2, faster=0.9), gates=steady)["tg128"] == "regressed"
    assert verdicts(result(1), result(2, faster=0.9))["tg128"] == "inconclusive"


def test_in_turns_the_gates_threshold_decides_and_within_the_noise_nothing():
    strict = [Gate(metric="tg*", kind="wall clock", threshold="2%")]
    pair = turned(0.96, "no change")
    assert verdicts(*pair)["tg128"] == "no change"
    assert verdicts(*pair, gates=strict)["tg128"] == "regressed"
    assert verdicts(*turned(0.96, "no change", noise=0.04), gates=strict)["tg128"] == "inconclusive"


def test_a_file_of_results_in_turns_holds_both():
    pair = turned(0.9, "slower")
    assert in_turns(pair) == ([pair[0]], [pair[1]])
    with pytest.raises(BadInput, match="no results that were measured in turns"):
        in_turns([result()])


def test_another_device_has_no_wall_clock_verdict_but_its_fidelity_is_gated():
    before, after = on("A", judged(kld=0.01)), on("B", judged(kld=0.02))
    found = verdicts(before, after)
    assert found["tg128"] == "not comparable"
    assert found["KLD prefill"] == found["KLD decode"] == "regressed"


def with_share(device, share, highest=1.01):
    ceiling = Ceiling(
        by="numpy",
        working_set=1,
        threads=1,
        read_bytes_per_s=1e10,
        read_highest=highest * 1e10,
        read_samples=[1e10],
    )
    return on(device, result(row=speed(0, roofline_probe=share), ceiling=ceiling))


@pytest.mark.parametrize(
    ("now", "highest", "verdict"),
    [(0.5, 1.01, "inconclusive"), (0.3, 1.01, "regressed"), (0.3, 1.5, "inconclusive")],
)
def test_across_devices_the_share_of_the_roofline_is_compared(now, highest, verdict):
    found = verdicts(with_share("A", 0.6, highest), with_share("B", now, highest))
    assert found["tg128 of the roofline"] == verdict
    whole = compare_results([with_share("A", 0.6, highest)], [with_share("B", now, highest)])
    assert whole.notes == []  # no turns, which two devices cannot take
    steady = [Gate(metric="*", kind="roofline share", threshold="5%", apart="2%")]
    found = verdicts(with_share("A", 0.6), with_share("B", now), gates=steady)
    assert found["tg128 of the roofline"] == "regressed"


@pytest.mark.parametrize(
    ("worse", "metric"),
    [({"kld": 0.02}, "KLD"), ({"ratio": 1.02}, "PPL ratio"), ({"same": 0.9}, "same top-1")],
)
def test_worse_fidelity_is_a_regression_and_better_is_none(worse, metric):
    found = compare_results([judged()], [judged(**worse)])
    assert {change.metric for change in found.regressed} == {
        f"{metric} {phase}" for phase in ("prefill", "decode")
    }
    back = compare_results([judged(**worse)], [judged()])
    assert not back.regressed
    assert {c.verdict for c in back.changes if c.metric.startswith(metric)} == {"improved"}


def test_a_difference_of_rounding_is_no_change():
    assert verdicts(judged(kld=1e-11), judged(kld=5e-11))["KLD prefill"] == "no change"


def test_fidelity_on_other_tokens_is_not_comparable():
    after = judged(kld=0.5, corpus_sha256="00" * 32)
    assert verdicts(judged(), after)["KLD prefill"] == "not comparable"


def test_more_bytes_are_a_regression():
    larger = replace(result(), artifact=replace(RESULT.artifact, bytes=1100))
    assert verdicts(result(), larger)["artifact bytes"] == "regressed"
    reads = result(row=replace(speed(0), bytes_per_step_actual=2 * 10**8))
    assert verdicts(result(), reads)["bytes a step, tg128"] == "regressed"


def test_more_nodes_in_the_graph_that_ran_are_a_regression():
    one, more = (
        replace(result(), artifact=replace(RESULT.artifact, graph_nodes={"standard": count}))
        for count in (540, 570)
    )
    assert verdicts(one, more)["graph nodes"] == "regressed"
    assert verdicts(one, one)["graph nodes"] == "no change"
    other = [replace(made, dialect="primitive") for made in (one, more)]
    assert "graph nodes" not in verdicts(*other)


def test_a_test_that_crashes_now_is_a_regression_and_one_that_is_lacking_is_said():
    crashed = replace(result(), speed=[], failed=[FailedTest(test="tg128", error=CRASH)])
    assert verdicts(result(), crashed)["tg128"] == "regressed"
    gone = replace(result(), speed=[], fidelity=None, error=ERROR)
    found = compare_results([result()], [gone])
    assert not found.regressed
    (lost,) = [change for change in found.changes if change.metric == "tg128"]
    assert (lost.verdict, lost.after, lost.why) == ("inconclusive", None, ERROR.message)
    late = replace(crashed.failed[0].error, exit_code=EXIT_GATE_FAILED)
    hung = replace(crashed, failed=[FailedTest(test="tg128", error=late)])
    assert verdicts(result(), hung)["tg128"] == "regressed"


def test_fidelity_that_is_gone_is_never_passed_over():
    unjudged = replace(result(), fidelity=None, unjudged="it was not asked for")
    found = compare_results([judged()], [unjudged])
    kinds = {change.verdict for change in found.changes if "KLD" in change.metric}
    assert kinds == {"inconclusive"}
    crashed = replace(unjudged, failed=[FailedTest(test=FIDELITY, error=CRASH)])
    assert verdicts(judged(), crashed)["KLD prefill"] == "regressed"


def test_an_invalid_row_decides_nothing():
    invalid = result(row=replace(speed(2, faster=0.3), valid=False, invalid_reason="no warm-up"))
    (change,) = [c for c in compare_results([result()], [invalid]).changes if c.metric == "tg128"]
    assert (change.verdict, change.why) == ("inconclusive", "INVALID: no warm-up")
    untold = result(row=replace(speed(2, faster=0.3), valid=False))
    (change,) = [c for c in compare_results([result()], [untold]).changes if c.metric == "tg128"]
    assert (change.verdict, change.why) == ("inconclusive", "INVALID: no reason is given")


def test_results_are_paired_with_what_is_nearest():
    def one(engine, precision, name):
        artifact = replace(RESULT.artifact, name=name)
        return replace(RESULT, engine=engine, precision=precision, artifact=artifact)

    before = [one("ort", "fp32", "a"), one("ort", "int8", "b"), one("torch", "fp32", "a")]
    after = [one("ort", "int8", "b2"), one("ort", "fp32", "a"), one("trt", "fp16", "c")]
    pairs, lost, new = paired(before, after)
    assert pairs == [(before[1], after[0]), (before[0], after[1])]
    assert (lost, new) == ([before[2]], [after[2]])
    assert compare_results(before, after).notes[:2] == [
        "the baseline's torch with a is compared with nothing",
        "the results' trt with c is compared with nothing",
    ]


def test_which_of_several_alike_is_meant_is_never_guessed():
    one, other, third, fourth = (replace(result(seed), created=str(seed)) for seed in range(4))
    assert paired([one], [other, third])[0] == paired([other, third], [one])[0] == []
    assert paired([one, other], [fourth, third])[0] == [(one, fourth), (other, third)]


def test_gates_that_fit_nothing_are_refused_by_name_unless_they_may_be_idle():
    idle = Gate(metric="tgg*", kind="wall clock", threshold="3%")
    gates = [idle, Gate(metric="KL", threshold="3%", engine="o*"), GATES[0]]
    with pytest.raises(BadInput) as refused:
        compare_results([judged()], [judged()], gates)
    named = "fits the gate 'tgg*' of kind wall clock; 'KL', engine 'o*'"
    assert named in refused.value.message
    optional = [msgspec.structs.replace(gate, optional=True) for gate in gates[:2]]
    assert not compare_results([judged()], [judged()], [*optional, GATES[0]]).regressed


def test_a_gate_of_another_kind_of_machine_is_not_idle():
    one = result(row=speed(1, roofline_probe=0.5))
    kinds = ("wall clock", "roofline share")
    gates = [Gate(metric="tg128", kind=kind, threshold="5%") for kind in kinds]
    for other, kind in ((one, "wall clock"), (on("elsewhere", one), "roofline share")):
        changes = compare_results([one], [other], gates).changes
        assert kind in {change.kind for change in changes if change.gated}


@pytest.mark.parametrize("metric", ["tg128", "TTFT p50, *", "*"])
def test_what_varies_is_held_to_no_difference_whatever_the_kind_is_called(metric):
    one = result(row=speed(1, ttft_ms=TIMES))
    for threshold in (0.05, 1):
        with pytest.raises(BadInput, match="a threshold in percent"):
            compare_results([one], [one], [Gate(metric=metric, threshold=threshold)])
    assert not compare_results([one], [one], [Gate(metric="KLD *", threshold=0.05)]).regressed


def test_what_no_gate_is_about_is_counted_apart():
    gates = [Gate(metric="tg*", kind="wall clock", threshold="3%", apart="5%")]
    found = compare_results([judged(kld=0.01)], [judged(kld=0.5)], gates)
    line = verdict_line(found)
    assert line.startswith("no regression: ")
    assert "2 worse, which no gate is about" in line
    assert "2 regressed" not in line


def test_precisions_of_one_engine_are_told_apart():
    def of(precision, kld):
        return replace(judged(kld=kld), precision=precision)

    found = compare_results([of("fp32", 0.01), of("int8", 0.01)], [of("fp32", 0.01), of("int8", 1)])
    assert verdict_line(found).startswith("REGRESSED: KLD prefill on ort int8, ")
    assert "| regressed | ort int8 | KLD prefill |" in changes_markdown(found)


def test_a_wall_clock_on_another_number_of_threads_is_not_compared():
    fewer = replace(result(2), environment=replace(RESULT.environment, threads=1))
    (change,) = [c for c in compare_results([result(1)], [fewer]).changes if c.metric == "tg128"]
    assert (change.verdict, change.why) == ("not comparable", "on another number of threads")


def test_a_light_is_yellow_where_something_is_open():
    assert changes_markdown(compare_results([result(1)], [result(2)])).startswith("**🟡")
    steady = [Gate(metric="*", kind="wall clock", threshold="5%", apart="3%")]
    assert changes_markdown(compare_results([result(1)], [result(2)], steady)).startswith("**🟢")


def test_nothing_to_pair_is_refused():
    with pytest.raises(BadInput, match="nothing in the baseline"):
        compare_results([replace(RESULT, engine="torch")], [replace(RESULT, engine="ort")])


def test_only_settings_that_differ_are_shown():
    newer = replace(
        RESULT, environment=replace(RESULT.environment, versions={"numpy": "3"}), precision="int8"
    )
    settings = compare_results([RESULT], [newer]).settings
    assert {one.name: (one.before, one.after) for one in settings} == {
        "precision": ("fp32", "int8"),
        "numpy": ("2", "3"),
    }


def rendered(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_worst_comes_first_and_the_table_fits_80_columns():
    found = compare_results([judged()], [judged(kld=0.5, same=0.99)])
    kinds = ["regressed", "inconclusive", "improved", "no change"]
    order = [change.verdict for change in found.changes]
    assert order[0] == "regressed"
    assert [name for name, _ in itertools.groupby(order)] == kinds
    text = rendered(changes_table(found))
    assert "KLD prefill" in text
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_has_what_changed_alone_and_json_all_of_it():
    found = compare_results([judged()], [judged(kld=0.5)])
    text = changes_markdown(found)
    assert text.startswith("**🔴 REGRESSED: KLD prefill on ort")
    assert "| regressed | ort | KLD prefill |" in text
    assert "PPL ratio" not in text
    whole = msgspec.json.decode(changes_json(found))
    assert whole["schema"] == "llx.comparison/1"
    assert whole["regressed"] is True
    assert len(whole["compared"]["changes"]) == len(found.changes)


def test_a_measure_that_no_gate_is_of_is_shown_and_fails_nothing():
    gates = [Gate(metric="KLD *", kind="deterministic", threshold="10%")]
    found = compare_results([result(1)], [result(2, faster=0.4)], gates)
    assert not found.regressed
    (change,) = [change for change in found.changes if change.metric == "tg128"]
    assert (change.verdict, change.gated) == ("regressed", False)
    assert "no gate" in rendered(changes_table(found))


def test_the_first_gate_that_fits_counts():
    gates = [
        Gate(metric="KLD prefill", kind="deterministic", threshold="50%"),
        Gate(metric="KLD *", kind="deterministic", threshold="10%"),
    ]
    found = verdicts(judged(kld=0.010), judged(kld=0.012), gates)
    assert (found["KLD prefill"], found["KLD decode"]) == ("no change", "regressed")


def test_a_limit_holds_whatever_the_baseline():
    gates = [Gate(metric="KLD *", kind="deterministic", threshold="10%", limit=0.02)]
    assert verdicts(judged(kld=0.03), judged(kld=0.03), gates)["KLD prefill"] == "regressed"
    assert verdicts(judged(kld=0.03), judged(kld=0.019), gates)["KLD prefill"] == "improved"


REQUIRED = [
    Gate(metric="KLD *", kind="deterministic", threshold="10%", required=True),
    Gate(metric="tg*", kind="wall clock", threshold="5%", required=True),
]


def failing(before, after, gates=REQUIRED):
    """What fails, and what it rests on."""
    found = compare_results(before, after, gates)
    return {(one.engine, one.metric): one.why for one in found.regressed}


def test_what_a_gate_requires_fails_where_it_is_gone_or_invalid():
    unjudged = replace(judged(), fidelity=None, unjudged="it was not asked for")
    assert failing([judged()], [judged()]) == {}
    assert failing([judged()], [unjudged]) == {
        ("ort", f"KLD {phase}"): "required: it was not asked for" for phase in ("prefill", "decode")
    }
    assert failing([judged()], [unjudged], GATES) == {}
    invalid = replace(speed(2), valid=False, invalid_reason="no warm-up")
    valid, doubtful = result(1), result(row=invalid)
    assert failing([valid], [doubtful]) == {("ort", "tg128"): "required: INVALID: no warm-up"}
    assert failing([doubtful], [valid]) == {}  # it is the baseline that was no good
    assert failing([valid], [replace(valid, speed=[])]) == {
        ("ort", "tg128"): "required: it was not measured"
    }
    assert len(failing([on("A", judged())], [on("B", unjudged)])) == 2


def test_what_a_gate_requires_fails_where_it_is_invalid_and_could_not_be_compared_either():
    single = replace(speed(2), samples=[20.0], valid=False, invalid_reason="no warm-up")
    invalid = {("ort", "tg128"): "required: INVALID: no warm-up"}
    assert failing([result(1)], [result(row=single)]) == invalid
    assert failing([on("A", result(1))], [on("B", result(row=single))]) == invalid


def test_what_a_gate_requires_of_an_engine_that_is_gone_fails():
    both = [judged(), replace(judged(), engine="torch")]
    lost = {("torch", metric) for metric in ("tg128", "KLD prefill", "KLD decode")}
    assert failing(both, both[:1]).keys() == lost
    assert failing(both, both[:1], GATES) == {}
    line = verdict_line(compare_results(both, both[:1], REQUIRED))
    assert line.startswith("REGRESSED: tg128 on torch, KLD prefill on torch")
    share = Gate(metric="tg*", kind="roofline share", threshold="5%", required=True)
    lost = [replace(with_share("A", 0.6), engine=engine) for engine in ("ort", "torch")]
    assert failing(lost, lost[:1], [share]).keys() == {("torch", "tg128 of the roofline")}


def test_all_that_a_lost_test_told_is_said_to_be_lost():
    reads = result(row=replace(speed(0), bytes_per_step_actual=10**8))
    found = verdicts(reads, replace(reads, speed=[]))
    assert found["tg128"] == found["bytes a step, tg128"] == "inconclusive"


@pytest.mark.parametrize("gone", [{"roofline_probe": None}, {"valid": False}])
def test_a_share_of_the_roofline_that_is_gone_is_said_and_fails_where_it_is_required(gone):
    before, after = with_share("A", 0.6), with_share("B", 0.6)
    row = replace(after.speed[0], **gone)
    for rows in ([row], []):
        after = replace(after, speed=rows)
        assert verdicts(before, after)["tg128 of the roofline"] == "inconclusive"
        share = Gate(metric="tg*", kind="roofline share", threshold="5%", required=True)
        assert failing([before], [after], [share]).keys() == {("ort", "tg128 of the roofline")}


GATE_FILE = """
[[gate]]
metric = "tg*"
kind = "wall clock"
threshold = "3%"
engine = "ort"

[[gate]]
metric = "same top-1 *"
kind = "deterministic"
threshold = 0.01
"""


def test_gates_are_read_from_toml(tmp_path):
    (tmp_path / "gates.toml").write_text(GATE_FILE)
    first, second = read_gates(tmp_path / "gates.toml")
    assert first == Gate(metric="tg*", kind="wall clock", threshold="3%", engine="ort")
    assert second.threshold == 0.01
    assert first.fits("tg128", "wall clock", "ort")
    assert not first.fits("tg128", "wall clock", "torch")
    assert not first.fits("pp512", "wall clock", "ort")


@pytest.mark.parametrize(
    "text",
    [
        "[[gate]",
        "[[gate]]\nmetric = 'tg*'",
        "[[gate]]\nmetric = 'tg*'\nkind = 'speed'\nthreshold = '5%'",
        "[[gate]]\nmetric = 'tg*'\nkind = 'wall clock'\nthreshold = 0.05",
        "[[gate]]\nmetric = 'tg*'\nkind = 'wall clock'\nthreshold = '105%'",
        "[[gate]]\nmetric = 'tg*'\nkind = 'wall clock'\nthreshold = 'much'",
        "\xff",
    ],
)
def test_a_file_that_holds_no_gates_is_refused(tmp_path, text):
    (tmp_path / "gates.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="no file of gates"):
        read_gates(tmp_path / "gates.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_gates(tmp_path / "none.toml")


def test_settings_are_a_table_of_their_own():
    newer = replace(RESULT, precision="int8")
    assert "int8" in rendered(settings_table(compare_results([RESULT], [newer])))
