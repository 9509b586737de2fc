"""The catalogue is consistent: names, units, and what was derived from what."""

from __future__ import annotations

import pytest

from llx.devices import DEVICES, SOURCES, devices_named
from llx.errors import BadInput

ORINS = [device for device in DEVICES if device.sm == 87]
FIGURES = (
    "memory_gb bandwidth_gb_per_s fp16_tflops int8_tops fp8_tflops power_w".split()  # noqa: SIM905
)


def test_names_are_unique_and_found():
    assert len({device.name for device in DEVICES}) == len(DEVICES) == 23
    assert devices_named("all") == DEVICES
    assert [d.name for d in devices_named("T4, orin-nx-16,t4")] == ["t4", "orin-nx-16"]


def test_an_unknown_name_lists_those_that_are_known():
    with pytest.raises(BadInput, match="unknown device 'tpu'") as refused:
        devices_named("t4,tpu")
    for device in DEVICES:
        assert device.name in refused.value.remedy


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_figure_is_positive_and_has_its_source(device):
    for name in FIGURES:
        figure = getattr(device, name)
        assert figure is None or (figure.value > 0 and figure.source in SOURCES)
    assert (device.fp8_tflops is None) or "fp8" in device.precisions
    assert device.shared_memory == (device.kind == "jetson" or device.name == "gb10")


@pytest.mark.parametrize("device", ORINS, ids=lambda device: device.name)
def test_the_rates_of_orin_follow_from_its_clock(device):
    """Dense: 2048 FLOP of fp16 and 4096 operations of int8 in each SM and cycle."""
    per_cycle = device.sms * device.clock_ghz / 1e3
    assert device.fp16_tflops.value == pytest.approx(2048 * per_cycle, rel=0.01)
    assert device.int8_tops.value == pytest.approx(4096 * per_cycle, rel=0.03)


def test_super_is_another_device():
    plain, better = devices_named("orin-nano-8,orin-nano-8-super")
    assert (plain.bandwidth_gb_per_s.value, better.bandwidth_gb_per_s.value) == (68, 102)
    assert plain.fp16_tflops.value < better.fp16_tflops.value


@pytest.mark.parametrize(
    ("name", "precision", "has"),
    [
        ("t4", "bf16", False),
        ("orin-nx-16", "fp8", False),
        ("l4", "fp8", True),
        ("b200", "fp4", True),
    ],
)
def test_what_a_chip_computes_in(name, precision, has):
    assert (precision in devices_named(name)[0].precisions) is has
