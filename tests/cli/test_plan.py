"""`llx plan`, as a user runs it: without a GPU, PyTorch or weights."""

from __future__ import annotations

import shutil
import subprocess
import sys

import msgspec
import pytest

from llx.bench.roofline.plan import Plans
from llx.devices import DEVICES
from llx.llama.presets import PRESETS
from llx.precision import PRECISIONS
from tests.cli.test_bad_input import assert_refused

NAMES = [device.name for device in DEVICES]


def table_of(text):
    """Lines of the table: from the headings' second line to the blank line."""
    lines = text.split("\n\n")[1].splitlines()
    return lines[2:]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", [preset.name for preset in PRESETS])
def test_all_devices_are_one_line_each_in_80_columns(llx, model, precision):
    ended = llx("plan", "--model", model, "--precision", precision)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert [line.split()[0] for line in table_of(ended.stdout)] == NAMES
    assert "nothing was measured" in ended.stdout
    assert ("alone are quantized" in ended.stdout) == (precision in ("int8-wo", "int4"))


@pytest.mark.parametrize("name", NAMES)
def test_one_device_in_80_columns(llx, name):
    ended = llx("plan", "--size", "7b", "--device", name, "--precision", "int8")
    assert (ended.code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    for part in (
        name,
        "set aside",
        "bound",
        "predicted at 100 %",
        "predicted at a realistic",
        "disk:",
    ):
        assert part in ended.stdout


def test_what_is_unknown_or_missing_is_said(llx):
    thor = llx("plan", "--size", "7b", "--device", "thor-t5000", "--precision", "int8").stdout
    assert "unknown tok/s" in thor
    assert "the int8 rate of thor-t5000 is unknown" in thor
    lacking = llx("plan", "--size", "1b", "--precision", "bf16").stdout
    assert "t4 has no bf16" in lacking
    assert "TensorRT Edge-LLM" in llx("plan", "--size", "1b", "--device", "orin-nx-16").stdout


def test_json_holds_every_figure_with_its_source(llx):
    ended = llx("plan", "--size", "7b", "--precision", "int4", "-o", "json")
    plans = msgspec.json.decode(ended.stdout, type=Plans)
    assert plans.schema == "llx.plan/1"
    assert plans.kind == "prediction"
    assert plans.command == "llx plan --size 7b --precision int4 -o json"
    assert plans.parameters == 6738415616
    assert [plan.device for plan in plans.plans] == list(DEVICES)
    nano = msgspec.json.decode(ended.stdout)["plans"][0]
    assert nano["device"]["bandwidth_gb_per_s"] == {"value": 68, "source": "S"}
    assert nano["device"]["fp8_tflops"] is None
    assert nano["memory"]["fits"] is True


def test_disk_space_is_compared_with_what_is_free_here(llx, monkeypatch):
    enough = llx("plan", "--size", "135m", "-o", "json").stdout
    disk = msgspec.json.decode(enough, type=Plans).disk
    assert disk.needed_bytes == 2 * 134515008 + 2 * 2048 * 64
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 1, 8))
    assert "8 B are free here: NOT ENOUGH" in llx("plan", "--size", "135m").stdout


def test_plan_is_quiet_about_the_defaults_that_it_takes(llx, monkeypatch):
    usage = shutil.disk_usage(".")  # once: other programs write as well
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (
        llx("plan", "--size", "7b").stdout
        == llx(
            *("plan", "--model", "llama-2-7b", "--precision", "fp16", "--context", "2048"),
            *("--batch", "1", "--prompt", "512", "--device", "all"),
        ).stdout
    )


ARGUMENTS = {
    "no model": ((), ("--size", "--model")),
    "two models": (("--size", "7b", "--model", "llama-2-7b"), ("one of them",)),
    "an unknown size": (("--size", "9b"), ("9b", "135m")),
    "an unknown device": (("--size", "7b", "--device", "tpu"), ("'tpu'", *NAMES)),
    "an unknown precision": (("--size", "7b", "--precision", "fp8"), ("fp8", "int8-wo", "int4")),
    "too long a context": (("--size", "7b", "--context", "4097"), ("1…4096",)),
    "too many rows": (("--size", "7b", "--batch", "9"), ("--batch 9", "8")),
    "too long a prompt": (("--size", "7b", "--prompt", "2049"), ("--prompt 2049", "2048")),
    "an unknown format": (("--size", "7b", "-o", "pdf"), ("pdf", "json")),
}


@pytest.mark.parametrize(("arguments", "parts"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_plan_that_cannot_be_made(llx, arguments, parts):
    assert_refused(llx("plan", *arguments), 2, *parts)


def test_an_artifact_in_a_precision_that_is_none_is_refused(llx, tiny, tmp_path):
    shutil.copytree(tiny.folder, tmp_path / "a")
    manifest = msgspec.json.decode((tmp_path / "a" / "manifest.json").read_bytes())
    manifest["precision"] = {"compute": "fp16", "linear": "int4"}
    (tmp_path / "a" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert_refused(llx("inspect", "a"), 2, "int4 has blocks of 32, 64, 128, not None")


def test_plan_needs_neither_pytorch_nor_onnx():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'scipy')))\n"
        "sys.argv = ['llx', 'plan', '--size', '7b']\n"
        "from llx.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "orin-nx-16" in ended.stdout
