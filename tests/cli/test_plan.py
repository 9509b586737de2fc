"""`llx plan`, as a user runs it: without a GPU, PyTorch or weights."""

from __future__ import annotations

import shutil
import subprocess
import sys

import msgspec
import pytest

from llx.bench.roofline import plan as roofline_plan
from llx.bench.roofline.plan import Plans
from llx.devices import DEVICES
from llx.exporter.engines import bundle
from llx.llama.presets import families
from llx.precision import PRECISIONS
from llx.reports.units import significant
from tests.checkpoints import TINY, random_tensors, write_checkpoint, write_gguf
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny

NAMES = [device.name for device in DEVICES]


def table_of(text):
    """Lines of the table: from the headings' second line to the blank line."""
    lines = text.split("\n\n")[1].splitlines()
    return lines[2:]


# Of each family the model of the longest name.
MODELS = [max((preset.name for preset in presets), key=len) for presets in families().values()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
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


def test_the_kin_are_planned_with_their_parts(llx):
    """Qwen2.5-7B with its biases, and a cache of four KV heads."""
    plans = msgspec.json.decode(
        llx("plan", "--model", "qwen2.5-7b", "--device", "orin-nx-16", "-o", "json").stdout,
        type=Plans,
    )
    (only,) = plans.plans
    assert (plans.model, plans.parameters) == ("qwen2.5-7b", 7615616512)
    assert plans.spec.qkv_bias
    assert only.memory.cache_bytes == 2048 * 2 * 28 * 4 * 128 * 2
    assert only.memory.weights_bytes == 2 * 7615616512 + 2 * 2048 * 128


def test_a_decode_within_a_long_prompt_must_read_the_window_alone(llx):
    long = ("--context", "8192", "--prompt", "8192", "--device", "orin-nx-16", "-o", "json")
    windowed, whole = (
        msgspec.json.decode(llx("plan", "--model", f"mistral-7b-{name}", *long).stdout, type=Plans)
        for name in ("v0.1", "instruct-v0.2")
    )
    reads = [plans.plans[0].decode.read_bytes for plans in (windowed, whole)]
    assert reads[1] - reads[0] == 4096 * 2 * 32 * 8 * 128 * 2
    speeds = [plans.plans[0].decode.tok_per_s_realistic for plans in (windowed, whole)]
    assert speeds[0] == speeds[1]  # its engine masks, and reads all
    assert windowed.plans[0].memory == whole.plans[0].memory


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


def planned(llx, *arguments):
    return msgspec.json.decode(llx("plan", *arguments, "-o", "json").stdout, type=Plans)


def test_a_checkpoint_is_planned_by_its_config_alone(llx, tmp_path):
    folder = write_checkpoint(tmp_path / "Own-Model")
    for file in folder.iterdir():
        if file.name != "config.json":
            file.unlink()
    plans = planned(llx, folder)
    assert (plans.model, plans.spec, plans.precision) == ("own-model", TINY, "fp16")
    assert plans.sizes.capacity == TINY.context


def test_a_gguf_file_is_planned_by_its_header(llx, tmp_path):
    write_gguf(tmp_path / "own.gguf", TINY, random_tensors(TINY))
    assert planned(llx, tmp_path / "own.gguf").parameters == TINY.parameters


def test_an_artifact_is_planned_as_it_was_exported_unless_another_precision_is_asked_for(
    llx, tmp_path
):
    artifact = export_tiny(tmp_path, "int4", context=48)
    own = planned(llx, artifact.folder)
    assert own.precision == artifact.manifest.precision.name
    assert own.sizes.capacity == 48
    other = planned(llx, artifact.folder, "--precision", "fp16", "--context", "64")
    assert (other.precision, other.sizes.capacity) == ("fp16", 64)


def test_the_hubs_config_is_all_that_is_asked_for(llx, tmp_path, monkeypatch):
    asked = []

    def snapshot(hub_id, allow_patterns, local_files_only):
        asked.append((hub_id, allow_patterns))
        return str(write_checkpoint(tmp_path / "hub"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert planned(llx, "owner/Model-1B").model == "model-1b"
    assert asked == [("owner/Model-1B", ["config.json"])]


@pytest.mark.parametrize("device", ["all", "orin-nx-16"])
@pytest.mark.parametrize("precisions", ["fp16,int8,int4", ",".join(PRECISIONS)])
def test_several_precisions_stand_in_one_table_with_the_figures_of_each(llx, precisions, device):
    ended = llx("plan", "--size", "7b", "--precision", precisions, "--device", device)
    assert (ended.code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= 80
    table = ended.stdout.split("\n\n")[1]
    for name in precisions.split(","):
        (plan,) = planned(llx, "--size", "7b", "--precision", name, "--device", "orin-nx-16").plans
        rate = plan.decode.tok_per_s_realistic
        if plan.memory.fits and rate is not None:
            assert significant(rate, 3) in table
    told = msgspec.json.decode(
        llx("plan", "--size", "7b", "--precision", precisions, "-o", "json").stdout,
        type=list[Plans],
    )
    assert [one.precision for one in told] == precisions.split(",")


def test_figures_that_nobody_looked_up_are_said_to_be(llx):
    said = " ".join(llx("plan", "--size", "7b").stdout.split())
    listed = said.split("are figures of ")[1].split(": which")[0].split(", ")
    assert {"a10", "rtx-4090"} <= set(listed)
    assert not {"t4", "h100-sxm", "gb10"} & set(listed)
    assert "checked against a source" in llx("plan", "--size", "7b", "--device", "a10").stdout
    assert "checked against" not in llx("plan", "--size", "7b", "--device", "t4").stdout


def test_what_an_engine_takes_is_what_a_build_asks_for(llx):
    assert roofline_plan.ENGINE_BYTES_PER_WEIGHT == bundle.ENGINE_BYTES_PER_WEIGHT
    plans = planned(llx, "--size", "7b")
    assert plans.build.disk_bytes == 2 * plans.build.memory_bytes == 2 * plans.disk.needed_bytes
    assert "up to 26.95 GB of disk" in llx("plan", "--size", "7b").stdout


ARGUMENTS = {
    "a size without its option": (("7b",), ("--size 7b",)),
    "a name without its option": (("llama-2-7b",), ("--model llama-2-7b",)),
    "nothing of that name": (("no-such",), ("no-such does not exist", "--size")),
    "an empty name": (("",), ("empty", "--size")),
    "a model twice": ((".", "--size", "7b"), ("two models",)),
    "no precision": (("--size", "7b", "--precision", ","), ("--precision",)),
    "no model": ((), ("--size", "--model")),
    "two models": (("--size", "7b", "--model", "llama-2-7b"), ("one of them",)),
    "an unknown size": (("--size", "9b"), ("9b", "135m")),
    "an unknown device": (("--size", "7b", "--device", "tpu"), ("'tpu'", *NAMES)),
    "an unknown precision": (("--size", "7b", "--precision", "fp4"), ("fp4", "int8-wo", "int4")),
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
