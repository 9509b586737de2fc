"""`llx export --precision auto --device NAME`: what fits there and loses least, and why."""

from __future__ import annotations

import pytest

from llx.api.plan import plan, precision_for
from llx.artifact import open_artifact
from llx.devices import DEVICES
from llx.errors import BadInput
from llx.llama.presets import PRESETS
from tests.checkpoints import write_checkpoint
from tests.cli.test_bad_input import assert_refused


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("model", ["llama-3.2-3b", "llama-3.1-8b", "llama-2-70b"])
def test_it_is_what_a_plan_calls_best(device, model):
    spec = next(preset.spec for preset in PRESETS if preset.name == model)
    (planned,) = plan(model=model, device=device.name).plans
    if planned.best_precision is None:
        with pytest.raises(BadInput, match=f"no precision fits {device.name}: .*choose a smaller"):
            precision_for(spec, device.name, None)
    else:
        name, why = precision_for(spec, device.name, None)
        assert name == planned.best_precision
        assert why.startswith(f"{name} for {device.name}: ")


def test_a_chip_that_has_no_int4_is_given_none():
    spec = next(preset.spec for preset in PRESETS if preset.name == "llama-2-13b")
    assert precision_for(spec, "l4", None)[0] == "int8-wo"
    with pytest.raises(BadInput, match=r"int8-wo needs .*; its chip has no int4: choose"):
        precision_for(next(p.spec for p in PRESETS if p.name == "llama-1-33b"), "t4", None)


def test_a_checkpoint_of_ones_own_is_measured_by_its_sizes(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    words = ("export", "--weights", "tiny", "--precision", "auto", "--device", "nano-8-orin")
    ended = llx(*words, "-o", "out")
    assert ended.code == 0
    assert ended.stderr.startswith("llx: fp16 for orin-nano-8: fp16 needs ")
    assert open_artifact(tmp_path / "out").manifest.precision.name == "fp16"
    assert "nothing to do" in llx(*words, "-o", "out").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "auto"), ("chooses for a device", "--device")),
        (("--precision", "auto", "--device", "all"), ("devices", "name one of them")),
        (("--precision", "auto", "--device", "t4,l4"), ("2 devices", "name one of them")),
        (("--precision", "auto", "--device", "nano"), ("unknown device", "choose")),
        (("--precision", "int4", "--device", "t4"), ("same on every device", "auto")),
        (("--device", "t4"), ("same on every device", "auto")),
    ],
)
def test_what_names_no_one_device_is_refused(llx, words, said):
    ended = llx("export", "--model", "llama-3.2-1b", "--weights", "none", *words)
    assert_refused(ended, 2, *said)
