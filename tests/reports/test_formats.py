"""Results as tables, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llx.conditions import EnergyRecord
from llx.errors import BadInput
from llx.reports.console import result_tables
from llx.reports.formats import FORMATS, format_named
from llx.reports.html.page import page_html
from llx.reports.markdown import markdown_table
from llx.reports.plain import visible
from llx.result import FailedTest, TimeRecord, encode_results, read_results
from tests.reports.made import CEILING, ERROR, RESULT, ROW, TIMES


def rendered(results):
    console = Console(width=80, file=io.StringIO())
    for table in result_tables(results):
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_results_survive_being_written_and_read(tmp_path, name):
    failed = replace(RESULT, speed=[], fidelity=None, memory=None, error=ERROR)
    (tmp_path / "results").write_text(FORMATS[name]([RESULT, failed]))
    assert read_results(tmp_path / "results") == [RESULT, failed]


@pytest.mark.parametrize("damage", ["cut", "type", "schema"])
def test_a_damaged_result_file_is_refused(tmp_path, damage):
    text = FORMATS["json"]([RESULT])
    if damage == "cut":
        text = text[:-20]
    elif damage == "type":
        text = text.replace('"mean": 20.5', '"mean": "fast"')
    else:
        text = text.replace("llx.result/1", "llx.results/1")
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(BadInput, match=r"not a list of llx\.result/1"):
        read_results(tmp_path / "results.json")


@given(st.text(max_size=30))
def test_csv_keeps_any_name_in_its_column(name):
    result = replace(RESULT, artifact=replace(RESULT.artifact, name=name))
    row = next(csv.DictReader(io.StringIO(FORMATS["csv"]([result]), newline="")))
    assert row["artifact"].removeprefix("'") == visible(name).removeprefix("'")
    assert row["test"] == "tg128"


def test_an_engine_without_numbers_says_why_in_every_form():
    failed = replace(RESULT, engine="trt", speed=[], fidelity=None, memory=None, error=ERROR)
    for text in (rendered([RESULT, failed]), FORMATS["md"]([RESULT, failed])):
        assert "engine trt is not here: install it" in " ".join(text.split())


def test_what_was_multiplied_is_said_where_the_precision_does_not():
    said = "int4 by int8: inputs rounded in blocks of 32 as they come"
    rounding = replace(RESULT, precision="int4", details={"arithmetic": said})
    for text in (rendered([rounding]), FORMATS["md"]([rounding]), page_html([rounding])):
        assert said in re.sub(r"[\s│]+", " ", text)
    plain = replace(RESULT, precision="fp32", details={"arithmetic": "fp32"})
    assert "arithmetic" not in rendered([plain])
    assert "multiplied" not in FORMATS["md"]([plain])


def test_artifacts_have_tables_of_their_own():
    other = replace(RESULT, artifact=replace(RESULT.artifact, name="other-fp16", sha256="9" * 64))
    titles = [table.title.plain for table in result_tables([RESULT, other, RESULT])]
    assert [title.split(" · ")[0] for title in titles] == ["tiny-fp32", "other-fp16"]
    assert FORMATS["md"]([RESULT, other]).count("| other-fp16 |") == 4


def test_speed_that_was_measured_is_shown_where_fidelity_failed():
    failed = [FailedTest(test="fidelity", error=ERROR)]
    half = replace(RESULT, fidelity=None, unjudged="logits are not finite", failed=failed)
    for text in (rendered([half]), FORMATS["md"]([half])):
        assert "tg128" in text
    assert ERROR.message in " ".join(rendered([half]).split())
    assert "logits are not finite" in rendered([replace(half, failed=[])])


def test_what_a_step_reads_stands_beside_what_it_must():
    row = replace(ROW, bytes_per_step=270 * 2**20, bytes_per_step_actual=312 * 2**20)
    for text in (
        rendered([replace(RESULT, speed=[row])]),
        FORMATS["md"]([replace(RESULT, speed=[row])]),
    ):
        assert "312.0 MiB" in text
        assert "270.0 MiB" in text


def test_energy_names_source_rail_window_and_what_is_used_without_an_engine():
    for text in (rendered([RESULT]), FORMATS["md"]([RESULT])):
        shown = " ".join(text.split())
        for part in ("1953", "mJ/tok", "RAPL", "package-0", "12.5", "4 readings", "40", "11.2"):
            assert part in shown
    row = next(csv.DictReader(io.StringIO(FORMATS["csv"]([RESULT]))))
    assert (float(row["mj_per_token"]), row["energy_source"]) == (1953.125, "RAPL")


def test_energy_that_was_not_measured_says_why_once():
    reason = "RAPL is readable by root only: sudo chmod"
    none = replace(ROW, energy=EnergyRecord(reason=reason))
    result = replace(RESULT, speed=[none, replace(none, test="tg64")])
    for text in (rendered([result]), FORMATS["md"]([result])):
        shown = " ".join(text.split())
        assert shown.count("RAPL is readable by root") == 1
        assert "not measured" in shown
        assert "mJ/tok" not in shown


def test_what_makes_numbers_doubtful_stands_under_them():
    for text in (rendered([RESULT]), FORMATS["md"]([RESULT])):
        shown = " ".join(text.split())
        assert shown.index("tg128") < shown.index("others used 0.31 of a core meanwhile")
        assert "doubtful" in shown


def test_markdown_says_what_the_machine_was_limited_to():
    page = FORMATS["md"]([RESULT])
    for part in ("SMT on", "2 NUMA nodes", "limited to 1.5 CPUs", "16.0 GiB", "fingerprint `ef`"):
        assert part in page


def test_an_engine_that_was_built_says_its_size_and_what_it_cost():
    built = replace(
        RESULT,
        engine="trt",
        dialect="primitive",
        memory=replace(RESULT.memory, engine_bytes=5 * 2**20, peak_device_bytes=7 * 2**20),
        time=TimeRecord(load_s=1.0, build_s=61.5),
        details={"cuda_graph": "one for a decode step", "capacity": 96},
    )
    shown = rendered([built])
    for part in ("5.0 MiB", "7.0 MiB", "dialect primitive, built in 61.5 s"):
        assert part in shown
    for part in ("cuda_graph one for a decode step", "capacity 96", "GPU memory 7.0 MiB"):
        assert part in FORMATS["md"]([built])


def test_what_a_reader_must_know_of_a_speed_stands_beside_it():
    row = replace(
        ROW, drift=-0.104, outliers=2, farthest_outlier=-0.31, until=0.01, quick=True
    )  # its interval is 14.1 to 26.9
    for text in (
        " ".join(rendered([replace(RESULT, speed=[row])]).split()),
        FORMATS["md"]([replace(RESULT, speed=[row])]),
    ):
        for part in (
            "drifts by -10 %",
            "2 outliers, up to -31 %",
            "±31 % after 2 repetitions, not ±1 %",
            "quick, not to be published",
        ):
            assert part in text
    for text in (rendered([RESULT]), FORMATS["md"]([RESULT])):
        for part in ("drift", "outlier", "after 2", "quick"):
            assert part not in text


def test_a_request_shows_each_of_its_times():
    row = replace(ROW, test="req128:32", isl=128, ttft_ms=TIMES, e2e_ms=replace(TIMES, mean=900.0))
    for text in (
        rendered([replace(RESULT, speed=[row])]),
        FORMATS["md"]([replace(RESULT, speed=[row])]),
    ):
        for part in ("req128:32", "TTFT 48.5", "TPOT 48.5", "E2E 900"):
            assert part in " ".join(text.split())


def test_markdown_says_how_often_a_test_ran_and_what_its_interval_is():
    page = FORMATS["md"]([RESULT])
    assert "Repetitions: 2, after 1 to warm up; CI95: Student's t, mean." in page


def test_a_single_repetition_has_no_deviation():
    row = replace(ROW, samples=[20.0], sd=0.0, valid=False, invalid_reason="1 repetitions")
    assert "±" not in rendered([replace(RESULT, speed=[row], fidelity=None)])


def test_rows_of_other_batch_sizes_are_told_apart():
    shown = rendered([replace(RESULT, speed=[ROW, replace(ROW, batch=4)])])
    assert "tg128 × 4" in shown


def test_an_invalid_number_is_not_shown_as_one():
    invalid = replace(ROW, valid=False, invalid_reason="1 repetitions, fewer than 5")
    result = replace(RESULT, speed=[invalid])
    assert "INVALID: 1 repetitions" in " ".join(rendered([result]).split())
    assert "INVALID: 1 repetitions" in FORMATS["md"]([result])


def test_the_table_fits_80_columns_whatever_the_names():
    long = replace(RESULT, artifact=replace(RESULT.artifact, name="x" * 200))
    assert max(map(len, rendered([RESULT, long]).splitlines())) <= 80


def test_markup_and_escapes_in_names_do_nothing():
    odd = replace(RESULT, engine="[red]x[/]", artifact=replace(RESULT.artifact, name="\x1b[2Jy"))
    shown = rendered([odd])
    assert "[red]x" in shown
    assert "\x1b" not in shown
    assert "[2Jy" in shown


def test_markdown_cells_cannot_break_their_table():
    table = markdown_table(("a", ">b"), [("x|y\nz", "1")])
    assert table.splitlines() == ["| a | b |", "| --- | --: |", "| `x\\|y z` | 1 |"]


def test_markdown_says_how_fidelity_was_measured():
    page = FORMATS["md"]([RESULT])
    for part in ("5 windows of 512 tokens", "stride 22484", "BOS: none", "abababab"):
        assert part in page


def test_every_column_of_csv_is_filled():
    full = replace(ROW, ttft_ms=TIMES, roofline_probe=0.5, valid=False, invalid_reason="too noisy")
    result = replace(RESULT, speed=[full])
    row = next(csv.DictReader(io.StringIO(FORMATS["csv"]([result]))))
    assert None not in row
    assert all(value != "" for value in row.values())


def test_an_unknown_format_is_refused():
    with pytest.raises(BadInput, match="choose one of md, json, jsonl, csv"):
        format_named("pdf")


def test_results_are_versioned():
    assert msgspec.json.decode(FORMATS["jsonl"]([RESULT]))["schema"] == "llx.result/1"


def test_what_a_share_of_the_roofline_is_of_stands_below_it():
    found = replace(RESULT, ceiling=replace(CEILING, flops_per_s=1.5e11))
    for text in (rendered([found]), FORMATS["md"]([found])):
        words = " ".join(text.split())
        assert "20.5 GB/s" in words
        assert "150 GFLOP/s, at most 22 GB/s: a probe by numpy on 1 thread" in words
    assert "FLOPs not measured" in FORMATS["md"]([replace(RESULT, ceiling=CEILING)])
    without = replace(RESULT, no_ceiling="it was not asked for")
    assert "it was not asked for" in " ".join(rendered([without]).split())


def test_fidelity_that_failed_is_said_once():
    failed = [FailedTest(test="fidelity", error=ERROR)]
    found = replace(RESULT, fidelity=None, unjudged=ERROR.message, failed=failed)
    assert rendered([found]).count("fidelity") == 1


CONTRADICTIONS = {
    "a median": ({"median": 35.0}, r"speed\[0\].median is 35, and that of samples 20.5"),
    "a mean": ({"mean": 41.0}, r"speed\[0\].mean is 41, and that of samples 20.5"),
    "an interval": ({"ci95": (26.9, 14.1)}, r"speed\[0\].ci95 is from 26.9 to 14.1"),
    "no samples": ({"samples": []}, r"speed\[0\].samples are none"),
    "a percentile": (
        {"tpot_ms": replace(TIMES, p50=60.0)},
        r"speed\[0\].tpot_ms.p50 is 60, and p90 50",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_result_that_contradicts_itself_is_refused_with_the_field(tmp_path, case):
    changes, said = CONTRADICTIONS[case]
    (tmp_path / "r.json").write_bytes(
        encode_results([replace(RESULT, speed=[replace(ROW, **changes)])])
    )
    with pytest.raises(BadInput, match=said):
        read_results(tmp_path / "r.json")


def test_a_result_of_a_version_to_come_is_not_called_damaged(tmp_path):
    told = encode_results([RESULT]).replace(b"llx.result/1", b"llx.result/2")
    (tmp_path / "r.json").write_bytes(told)
    with pytest.raises(BadInput, match=r"by a newer llx \(llx.result/2\): upgrade"):
        read_results(tmp_path / "r.json")
