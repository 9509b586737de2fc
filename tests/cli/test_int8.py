"""`--precision int8` from the export to the bench: what it says of itself at every step."""

from __future__ import annotations

import importlib

import msgspec
import numpy as np
import pytest

from llx.artifact import open_artifact
from llx.bench.sessions.ort import OrtSession
from llx.exporter.export import export
from llx.exporter.locate import RandomWeights
from llx.exporter.request import ExportRequest
from llx.llama.presets import Preset
from llx.manifest import WEIGHTS
from llx.precision import PRECISIONS
from llx.result import Result
from tests.checkpoints import TINY, random_tensors, write_checkpoint
from tests.cli.test_bad_input import assert_refused

HOW = "SmoothQuant and GPTQ, 48 windows of 96 tokens"
INT8 = ("--precision", "int8")


@pytest.fixture
def exported(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    ended = llx("export", "--weights", "tiny", *INT8)
    assert (ended.code, ended.stderr) == (0, "")
    return ended


def test_export_and_inspect_say_how_it_was_quantized_and_what_to_do(llx, exported, tmp_path):
    for text in (exported.stdout, llx("inspect").stdout):
        assert f"int8: {HOW}" in text
        assert "it costs accuracy: judge it with `llx bench`" in text
    record = open_artifact(tmp_path / "artifacts" / "tiny-int8").manifest.quantization
    assert (record.scheme, record.method) == ("w8a8", "smoothquant")
    assert (record.windows, record.window) == (48, 96)
    assert len(record.corpus_sha256) == 64


def test_the_same_export_again_is_a_no_op(llx, exported):
    assert "nothing to do" in llx("export", "--weights", "tiny", *INT8).stdout


def test_check_passes_it_with_what_was_left_dense(llx, exported, tmp_path):
    ended = llx("check")
    assert (ended.code, ended.stderr) == (0, "")
    left = len(open_artifact(tmp_path / "artifacts" / "tiny-int8").manifest.quantization.dense)
    assert left > 0
    assert (
        f"parity of ort: {8 - left} int8 layers, {left} left dense, each on its own" in ended.stdout
    )
    assert "`llx bench` measures what int8 costs" in ended.stdout


def test_check_fails_a_graph_whose_scales_are_not_the_layers_own(llx, tmp_path, monkeypatch):
    """Every byte and every name right, and the runtime given other numbers."""
    from llx.bench.fidelity import linears

    write_checkpoint(tmp_path / "tiny")
    # Which layers would be left dense is a matter of their weights.
    assert llx("export", "--weights", "tiny", *INT8, "--dense-share", "0").code == 0
    probes = linears._probes

    def swapped(model):
        found = probes(model)
        found["layers.0.down"], found["layers.1.down"] = (
            found["layers.1.down"],
            found["layers.0.down"],
        )
        return found

    monkeypatch.setattr(linears, "_probes", swapped)
    ended = llx("check")
    assert ended.code == 1
    assert "layers.0.down in ort is not what its int8 weights and scales say" in ended.stderr


@pytest.mark.parametrize("engine", ["ort", "torch"])
def test_bench_judges_it_against_the_checkpoint_in_fp32(llx, exported, engine):
    assert llx("reference", "--window", "64", "--windows", "3").code == 0
    arguments = ("--engine", engine, "-p", "8", "-n", "4", "-r", "2", "--no-roofline", "-o", "json")
    ended = llx("bench", *arguments)
    assert ended.code == 0
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert result.fidelity.reference_weights.startswith("the checkpoint")
    assert result.fidelity.corpus.endswith("second half")
    assert 1e-5 < result.fidelity.kld.mean < 0.1
    assert result.precision == "int8"
    assert result.artifact.quantization.startswith(HOW)
    assert HOW in result.artifact.weights


def test_the_table_of_a_bench_says_how_it_was_quantized(llx, exported):
    ended = llx(
        "bench",
        "--engine",
        "ort",
        "-p",
        "8",
        "-n",
        "4",
        "-r",
        "2",
        "--no-fidelity",
        "--no-roofline",
    )
    assert "SmoothQuant and GPTQ" in ended.stdout


def budget_of(folder):
    record = open_artifact(folder).manifest.quantization
    return record, record.budget


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_budget_is_kept_to_from_both_sides(llx, tmp_path, precision):
    """One that holds as it is leaves nothing dense; one below leaves some; one too low none."""
    write_checkpoint(tmp_path / "tiny")
    ask = ("export", "--weights", "tiny", "--precision", precision, "--calibration-windows", "4")
    assert llx(*ask, "--max-kld", "1", "-o", "loose").code == 0
    record, budget = budget_of(tmp_path / "loose")
    assert (record.dense, record.share, budget.max_kld) == ((), 1.0, 1.0)
    assert budget.judged_by == "ort"
    assert 0 < budget.kld < 1
    most = 0.5 * budget.kld
    assert llx(*ask, "--max-kld", f"{most}", "-o", "tight").code == 0
    record, budget = budget_of(tmp_path / "tight")
    assert record.dense
    assert 0.5 <= record.share < 1
    assert 0 < budget.kld <= most
    assert set(record.sensitivities) >= set(record.dense)
    ended = llx(*ask, "--max-kld", "1e-9", "-o", "never")
    assert_refused(ended, 1, "the best that was found is a KLD of", "allow more")
    assert not (tmp_path / "never").exists()
    # What was calibrated is kept, so that another budget is answered sooner.
    assert llx(*ask, "--max-kld", "1", "-o", "never").code == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".never")] == []


def test_a_budget_of_perplexity_is_kept_to(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    ask = ("export", "--weights", "tiny", *INT8, "--calibration-windows", "4")
    assert llx(*ask, "--max-ppl-ratio", "1.5", "-o", "loose").code == 0
    _, budget = budget_of(tmp_path / "loose")
    assert budget.max_ppl_ratio == 1.5
    assert 0.9 < budget.ppl_ratio <= 1.5


def test_what_onnx_runtime_finds_too_costly_is_written_again_with_more_left_dense(
    llx, tmp_path, monkeypatch
):
    """The graph has the last word: what it costs more than its values in PyTorch is made good."""
    command = importlib.import_module("llx.api.export")
    write_checkpoint(tmp_path / "tiny")
    ask = ("export", "--weights", "tiny", *INT8, "--calibration-windows", "4")
    assert llx(*ask, "--max-kld", "1", "-o", "loose").code == 0
    kld = budget_of(tmp_path / "loose")[1].kld
    run_windows, runs = command.run_windows, []

    def worse_at_first(folder, windows):
        runs.append(folder)
        for logits in run_windows(folder, windows):
            yield logits * (0.5 if len(runs) == 1 else 1.0)

    monkeypatch.setattr(command, "run_windows", worse_at_first)
    assert llx(*ask, "--max-kld", f"{1.05 * kld}", "-o", "again").code == 0
    record, budget = budget_of(tmp_path / "again")
    assert len(runs) == 2
    assert record.dense
    assert budget.kld <= 1.05 * kld


def test_random_weights_are_calibrated_on_random_tokens(tmp_path):
    preset = Preset(
        name="tiny", family="tiny", size="1k", hub_id="nobody/tiny", licence="none", spec=TINY
    )
    made = [
        export(
            ExportRequest(
                weights=RandomWeights(3),
                folder=tmp_path / name,
                precision=PRECISIONS["int8"],
                preset=preset,
            )
        )[0]
        for name in "ab"
    ]
    assert made[0].sha256 == made[1].sha256
    words = made[0].manifest.quantization.in_words
    assert words == "rounded to nearest, on random tokens, 1 window of 96 tokens"
    session = OrtSession(made[0])
    tokens = np.array([[1, 2, 3]])
    session.enqueue(tokens, np.array([[0, 1, 2]]), np.array([[2]]))
    assert np.isfinite(session.logits()).all()


def test_graphs_alone_are_those_of_the_whole_export_and_were_not_calibrated(llx, tmp_path):
    preset = Preset(
        name="tiny", family="tiny", size="1k", hub_id="nobody/tiny", licence="none", spec=TINY
    )
    bare, whole = (
        export(
            ExportRequest(
                weights=weights,
                folder=tmp_path / f"{weights is None}",
                precision=PRECISIONS["int8"],
                preset=preset,
            )
        )[0]
        for weights in (None, RandomWeights(0))
    )
    assert bare.manifest.files["standard.onnx"] == whole.manifest.files["standard.onnx"]
    assert bare.manifest.quantization is None
    assert not bare.has(WEIGHTS)
    assert "SmoothQuant" not in llx("inspect", bare.folder).stdout


def test_a_checkpoint_without_a_tokenizer_is_refused_and_nothing_is_left(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny", tokenizer=False)
    ended = llx("export", "--weights", "tiny", *INT8)
    assert_refused(ended, 2, "has no tokenizer", "put its tokenizer.json beside the weights")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_damaged_weights_are_refused_by_the_layer_that_shows_it(llx, tmp_path):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.mlp.up_proj.weight"][3] = 3e38
    write_checkpoint(tmp_path / "tiny", tensors=tensors)
    ended = llx("export", "--weights", "tiny", *INT8)
    assert_refused(ended, 2, "the input of layers.1.down is not finite", "undamaged checkpoint")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_manifest_that_hides_how_it_was_quantized_is_refused(llx, exported, tmp_path):
    file = tmp_path / "artifacts" / "tiny-int8" / "manifest.json"
    manifest = msgspec.json.decode(file.read_bytes())
    manifest["quantization"] = None
    file.write_bytes(msgspec.json.encode(manifest))
    assert_refused(llx("inspect"), 2, "int8 and its quantization record disagree")


def test_a_plan_of_int8_says_that_it_costs_accuracy(llx):
    ended = llx("plan", "--size", "7b", *INT8, "--device", "orin-nx-16")
    text = " ".join(ended.stdout.split())
    assert "int8 costs accuracy: judge an artifact with `llx bench`" in text
