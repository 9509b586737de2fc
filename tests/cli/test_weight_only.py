"""`--precision int8-wo` and `int4` from the export to the bench."""

from __future__ import annotations

import msgspec
import pytest

from llx.artifact import open_artifact
from llx.result import Result
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused

NEAREST = "weights rounded to nearest, without calibration"
PLAIN = ("--precision", "int4", "--compute", "fp32", "--calibration-windows", "0")


@pytest.mark.parametrize("tokenizer", [True, False])
def test_export_says_what_was_done_and_check_passes_it(llx, tmp_path, tokenizer):
    """Nothing is calibrated, so no tokenizer is needed."""
    write_checkpoint(tmp_path / "tiny", tokenizer=tokenizer)
    ended = llx("export", "--weights", "tiny", *PLAIN)
    assert (ended.code, ended.stderr) == (0, "")
    assert "tiny-int4-fp32" in ended.stdout
    for text in (ended.stdout, llx("inspect").stdout):
        assert f"int4: {NEAREST}; it costs accuracy: judge it with `llx bench`" in text
    record = open_artifact(tmp_path / "artifacts" / "tiny-int4-fp32").manifest.quantization
    assert (record.scheme, record.method, record.corpus) == ("w4", "nearest", None)
    checked = llx("check")
    assert (checked.code, checked.stderr) == (0, "")
    assert "parity of ort: 8 int4 layers, each on its own input: products off" in checked.stdout
    assert "`llx bench` measures what int4 costs" in checked.stdout


NAMES = {
    ("int4",): "tiny-int4",
    ("int4", "--block", "32"): "tiny-int4",
    ("int4", "--block", "128"): "tiny-int4-b128",
    ("INT8-WO", "--compute", "FP32"): "tiny-int8-wo-fp32",
    ("int8", "--compute", "bf16"): "tiny-int8-bf16",
}


@pytest.mark.parametrize(("arguments", "name"), NAMES.items(), ids=NAMES.values())
def test_the_folder_is_named_after_what_differs(llx, tmp_path, arguments, name):
    write_checkpoint(tmp_path / "tiny")
    assert llx("export", "--weights", "tiny", "--precision", *arguments).code == 0
    assert [path.name for path in (tmp_path / "artifacts").iterdir() if path.is_dir()] == [name]
    assert llx("check").code == 0


REFUSED = {
    "a block of int8-wo": (("int8-wo", "--block", "32"), ("has no blocks", "int4")),
    "a block of 16": (("int4", "--block", "16"), ("no blocks of 16", "32, 64, 128")),
    "fp16 computed in fp32": (("fp16", "--compute", "fp32"), ("says already", "leave --compute")),
    "an unknown type": (("int4", "--compute", "fp8"), ("--compute 'fp8'", "fp32, fp16, bf16")),
}


@pytest.mark.parametrize("command", ["export", "plan"])
@pytest.mark.parametrize(("arguments", "parts"), REFUSED.values(), ids=REFUSED)
def test_options_that_mean_nothing_are_refused(llx, tmp_path, command, arguments, parts):
    ended = llx(command, "--size", "135m", "--precision", *arguments)
    assert_refused(ended, 2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_bench_judges_it_against_the_checkpoint_in_fp32(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    assert llx("export", "--weights", "tiny", *PLAIN).code == 0
    assert llx("reference", "--window", "64", "--windows", "3").code == 0
    ended = llx(
        "bench", "--engine", "ort", "-p", "8", "-n", "4", "-r", "2", "--no-roofline", "-o", "json"
    )
    assert ended.code == 0
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert result.fidelity.reference_weights.startswith("the checkpoint")
    assert 1e-5 < result.fidelity.kld.mean < 1
    assert (result.precision, result.artifact.quantization) == ("int4-fp32", NEAREST)
    assert NEAREST in result.artifact.weights
    settings = {name: value for name, value in result.details.items() if "session." in name}
    assert settings == {"session.qdq_matmulnbits_accuracy_level": "4"}
    assert result.dialect == "ort"


def test_a_plan_knows_blocks_and_what_is_computed_in(llx):
    few, more = (
        msgspec.json.decode(
            llx("plan", "--size", "7b", "--precision", "int4", *asked, "-o", "json").stdout
        )
        for asked in ((), ("--block", "128", "--compute", "fp32"))
    )
    assert (few["precision"], more["precision"]) == ("int4", "int4-b128-fp32")
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    rest, tables = 6738415616 - linear, 2048 * 128
    assert few["disk"]["needed_bytes"] == linear * 9 // 16 + 2 * rest + 2 * tables
    blocks = 32 * (32 * (4 * 4096 + 2 * 11008) + 86 * 4096)
    assert more["disk"]["needed_bytes"] == linear // 2 + 4 * blocks + 4 * rest + 4 * tables
