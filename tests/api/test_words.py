"""The functions of the door on a small artifact: what they return, record, tell and raise."""

from __future__ import annotations

import logging
from dataclasses import replace

import pandas
import polars
import pytest

import llx
from llx.api import bench as measuring
from llx.api.results import Interrupted, results_of
from llx.bench import run as running
from llx.result import encode_results
from tests.checkpoints import write_checkpoint

SHORT = {"prompts": [8], "generated": [4], "repetitions": 2, "roofline": False}


@pytest.fixture(scope="module")
def results(judged):
    return llx.bench(judged, engines=["torch", "ort"], **SHORT)


def test_an_export_is_an_artifact_and_the_same_again_a_no_op(tmp_path):
    write_checkpoint(tmp_path / "tiny")
    folder = tmp_path / "out"
    made = llx.export(weights=tmp_path / "tiny", output=folder)
    again = llx.export(weights=str(tmp_path / "tiny"), output=str(folder))
    assert isinstance(made, llx.Artifact)
    assert made.sha256 == again.sha256
    assert made.manifest.created == again.manifest.created
    # An artifact is handed on, and names no folders.
    assert made.manifest.command == "llx.export(weights='…/tiny', output='…/out')"


def test_a_bench_returns_a_result_for_each_engine(results):
    assert isinstance(results, llx.Results)
    assert [result.engine for result in results] == ["torch", "ort"]
    assert [row.test for row in results[1].speed] == ["pp8", "tg4"]
    assert all(result.fidelity and not result.error for result in results)
    assert (results.errors, results.exit_code) == ([], 0)


def test_the_call_stands_in_the_record(results, judged):
    assert results[0].command == (
        f"llx.bench(artifact={str(judged.folder)!r}, engines=['torch', 'ort'], prompts=[8], "
        "generated=[4], repetitions=2, roofline=False)"
    )


def test_results_are_written_and_read(results, tmp_path):
    path = results.write(tmp_path / "results.json")
    assert path.read_bytes() == encode_results(list(results))
    assert llx.Results.read(path) == results
    assert results_of([path, path, results[0]]) == results


@pytest.mark.parametrize("without", [None, "pandas"])
def test_a_frame_has_a_row_for_each_test(results, monkeypatch, without):
    here = (lambda name: name != without) if without else (lambda name: True)
    monkeypatch.setattr("llx.api.results.is_installed", here)
    frame = results.to_frame()
    assert isinstance(frame, polars.DataFrame if without else pandas.DataFrame)
    assert list(frame["engine"]) == ["torch", "torch", "ort", "ort"]
    assert list(frame["test"]) == ["pp8", "tg4", "pp8", "tg4"]
    assert (frame["tok_per_s_mean"] > 0).all()
    assert frame["kld_mean"][0] == results[0].fidelity.kld.mean


def test_without_pandas_and_polars_a_frame_says_what_it_needs(results, monkeypatch):
    monkeypatch.setattr("llx.api.results.is_installed", lambda name: False)
    with pytest.raises(llx.Lacking, match="pandas or polars"):
        results.to_frame()


def test_a_result_and_an_artifact_show_themselves_and_stay_text(results, judged):
    hostile = replace(results[0], engine="<script>alert(1)</script>")
    shown = hostile._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    for part in ("pp8", "tg4", "KLD", "tok/s"):
        assert part in results._repr_html_()
    assert str(judged.manifest.contract.limits.capacity) in judged._repr_html_()


def test_an_engine_that_is_missing_is_told_and_is_part_of_the_results(tiny, caplog):
    told = []
    found = llx.bench(tiny, engines="trt", **SHORT, fidelity=False, tell=told.append)
    assert found.exit_code == 3
    assert "fewer than 5 repetitions" in told[0]
    assert found.errors[0].message in told[1]
    with caplog.at_level(logging.WARNING, "llx"):
        llx.bench(tiny, engines="trt", **SHORT, fidelity=False)
    assert found.errors[0].message in caplog.text


def test_progress_is_a_callback(tiny):
    seen = []
    llx.bench(tiny, **SHORT, fidelity=False, progress=lambda *news: seen.append(news))
    assert seen
    assert all(what.startswith("ort: ") and done <= total for what, done, total, _ in seen)


def test_nothing_is_printed(results, judged, tmp_path, capfd):
    llx.bench(judged, **SHORT)
    llx.report(results, tmp_path / "site")
    llx.check(judged)
    assert "".join(llx.generate(judged, "a", tokens=3)) is not None
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_carries_what_was_measured(tiny, monkeypatch):
    def interrupted(self, progress):
        if self._job.engine == "ort":
            raise KeyboardInterrupt
        run(self, progress)

    run = running.Measurement.run
    monkeypatch.setattr(measuring.Measurement, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        llx.bench(tiny, engines=["torch", "ort"], **SHORT, fidelity=False)
    assert isinstance(stopped.value, Interrupted)
    assert [result.engine for result in stopped.value.results] == ["torch", "ort"]
    assert stopped.value.results[0].speed


def test_an_interrupt_says_how_much_is_kept_for_resume(tiny, monkeypatch):
    one = running.Measurement._run

    def once(self, scenario, kept, progress):
        if self._outcomes:
            raise KeyboardInterrupt
        one(self, scenario, kept, progress)

    monkeypatch.setattr(measuring.Measurement, "_run", once)
    news = []
    with pytest.raises(Interrupted):
        llx.bench(tiny, engines="torch", **SHORT, fidelity=False, tell=news.append)
    assert news[1:] == ["1 of 2 tests is kept: the same command with --resume goes on from there"]
    monkeypatch.undo()
    done = llx.bench(tiny, engines="torch", **SHORT, fidelity=False, resume=True)
    assert len(done[0].speed) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"engines": []},
        {"engines": "nothing"},
        {"provider": "cuda", "engines": ["torch"]},
        {"repetitions": 0},
        {"warmup": -1},
        {"batches": [0]},
        {"depths": [-1]},
        {"prompts": [-4]},
        {"prompts": [10**6]},
        {"threshold": 0.1},
        {"threshold": 0.0, "against": "torch"},
        {"until": 0.0},
        {"until": 5},
        {"limit": 0},
        {"max_repetitions": 0},
        {"against": "nothing-here"},
        {"until": 0.01, "max_repetitions": 3},
    ],
    ids=str,
)
def test_what_makes_no_measurement_is_refused_before_any(tiny, wrong):
    with pytest.raises(llx.BadInput):
        llx.bench(tiny, **{"prompts": [8], "generated": [4], "fidelity": False, **wrong})


def test_a_comparison_finds_what_regressed(results):
    fidelity = results[1].fidelity
    worse = replace(fidelity.decode, kld=replace(fidelity.decode.kld, mean=0.5, se=1e-3))
    ruined = replace(results[1], fidelity=replace(fidelity, decode=worse))
    assert llx.compare(results, results).regressed == []
    assert [change.metric for change in llx.compare(ruined, results).regressed] == ["KLD decode"]


def test_a_comparison_reads_files_and_gates(results, tmp_path):
    path = results.write(tmp_path / "before.json")
    (tmp_path / "gates.toml").write_text(
        '[[gate]]\nmetric = "KLD *"\nkind = "deterministic"\nthreshold = "10%"\n'
    )
    found = llx.compare(path, [path], gates=tmp_path / "gates.toml")
    assert isinstance(found, llx.Compared)
    with pytest.raises(llx.BadInput, match="in turns"):
        llx.compare(results)


def test_a_report_says_what_it_wrote(results, tmp_path):
    written = llx.report(
        results, tmp_path / "site", baseline=results, history=tmp_path / "history", label="abc"
    )
    assert written.page.read_text().startswith("<!doctype html>")
    assert written.markdown == tmp_path / "site" / "report.md"
    assert (written.remembered, written.added) == (2, 2)
    assert written.compared.regressed == []
    with pytest.raises(llx.BadInput, match="--label"):
        llx.report(results, tmp_path / "site", label="abc")


def test_generated_text_comes_in_pieces_and_is_checked_at_the_call(judged):
    assert len("".join(llx.generate(judged, "hello", tokens=6))) > 0
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"engine": "nothing"}):
        with pytest.raises(llx.BadInput):
            llx.generate(judged, "hello", **wrong)
    assert isinstance("".join(llx.generate(judged, "hello", chat=True, tokens=2)), str)


def test_a_plan_takes_names_or_a_list_of_them():
    (one,) = llx.plan(size="8b", precision="int8", device="orin-nx-16").plans
    two = llx.plan(size="8b", precision="int8", device=["orin-nx-16", "t4"])
    assert two.plans[0] == one
    assert two.command == "llx.plan(size='8b', precision='int8', device=['orin-nx-16', 't4'])"
    with pytest.raises(llx.BadInput):
        llx.plan()


def test_a_check_says_what_is_right_and_raises_what_is_not(tiny, tmp_path):
    lines = llx.check(tiny)
    assert lines[0].startswith("bytes: ")
    assert any("parity of ort" in line for line in lines)
    with pytest.raises(llx.BadInput):
        llx.check(tmp_path)


def test_an_engine_is_built_for_a_gpu_that_is_not_here(tmp_path):
    write_checkpoint(tmp_path / "tiny")
    artifact = llx.export(weights=tmp_path / "tiny", precision="fp16", output=tmp_path / "fp16")
    (engine,) = llx.build(artifact, "trt-rtx", sm=86)
    assert isinstance(engine, llx.Engine)
    assert engine.manifest.key.sm == 86
    assert engine.manifest.key.artifact_sha256 == artifact.sha256
    with pytest.raises(llx.BadInput, match="takes no --sm"):
        llx.build(artifact, "trt", sm=86)
