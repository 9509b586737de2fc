"""`--precision fp8` from the export to the bench, and where it is not to be had."""

from __future__ import annotations

import msgspec
import pytest

from llx.artifact import open_artifact
from llx.result import Result
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny

HOW = "one scale for all inputs, and GPTQ, 4 windows of 96 tokens"


def test_it_says_of_itself_what_was_done_at_every_step(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    asked = "export --weights tiny --precision fp8 --calibration-windows 4 --calibration-text docs"
    ask = asked.split()
    ended = llx(*ask)
    assert (ended.code, ended.stderr) == (0, "")
    for text in (ended.stdout, llx("inspect").stdout):
        assert f"fp8: {HOW}" in text
        assert "it costs accuracy: judge it with `llx bench`" in text
    record = open_artifact(tmp_path / "artifacts" / "tiny-fp8").manifest.quantization
    assert (record.scheme, record.method, record.dense) == ("fp8", "levelled", ())
    assert "nothing to do" in llx(*ask).stdout
    checked = llx("check")
    assert (checked.code, checked.stderr) == (0, "")
    assert "parity of ort: 8 fp8 layers, each on its own input" in checked.stdout
    assert "`llx bench` measures what fp8 costs" in checked.stdout
    assert llx("reference", "--window", "64", "--windows", "3").code == 0
    words = ("-p", "8", "-n", "4", "-r", "2", "--no-roofline", "-o", "json")
    ended = llx("bench", "--engine", "ort,torch", *words)
    assert ended.code == 0
    for result in msgspec.json.decode(ended.stdout, type=list[Result]):
        assert (result.precision, result.artifact.quantization) == ("fp8", HOW)
        assert 1e-5 < result.fidelity.kld.mean < 0.1


def test_it_is_calibrated_or_not_at_all(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    ask = ("export", "--weights", "tiny", "--precision", "fp8")
    ended = llx(*ask, "--calibration-windows", 0)
    assert_refused(ended, 2, "fp8 needs a calibration: its inputs have scales", "one window")
    assert_refused(llx(*ask, "--block", 32), 2, "has no blocks", "int4")


LESS_THAN_ADA = {
    "an RTX of Ampere": ("--engine", "trt-rtx", "--sm", 86),
    "an Orin": ("--engine", "trt", "--device", "agx-orin-64", "-o", "made"),
}


@pytest.mark.parametrize("words", LESS_THAN_ADA.values(), ids=LESS_THAN_ADA)
def test_a_chip_before_ada_is_refused_by_name_with_what_to_export(llx, tmp_path, words):
    artifact = export_tiny(tmp_path, "fp8")
    ended = llx("build", artifact.folder, *words)
    chip = "SM86" if 86 in words else "SM87"
    assert_refused(ended, 2, f"{chip} has no float8e4m3fn", "SM89", "--precision int8")
    assert not (tmp_path / "made").exists()


def test_a_thor_is_given_a_bundle(llx, tmp_path):
    artifact = export_tiny(tmp_path, "fp8")
    for release in ("7.1", "7.2"):
        words = ("--device", "thor-t5000", "--jetpack", release, "-o", tmp_path / release)
        ended = llx("build", artifact.folder, "--engine", "trt", *words)
        assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("device", "prefill", "said"),
    [
        ("l4", True, None),
        ("orin-nx-16", False, "has no fp8"),
        ("thor-t5000", True, None),
        ("thor-t4000", False, "the fp8 rate of thor-t4000 is unknown"),
    ],
)
def test_a_plan_has_a_rate_where_one_is_known(llx, device, prefill, said):
    words = ("plan", "--size", "7b", "--device", device, "--precision", "fp8")
    told = msgspec.json.decode(llx(*words, "-o", "json").stdout)
    (plan,) = told["plans"]
    assert (plan["prefill"]["tok_per_s_at_spec"] is not None) == prefill
    assert said is None or said in " ".join(llx(*words).stdout.split())
