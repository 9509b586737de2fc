"""NVML, asked through a recording double of pynvml; and the real one, where there is no driver."""

from __future__ import annotations

import sys

import pytest

from llx.bench.machine.energy import CounterMeter, GaugeMeter, Missing
from llx.bench.machine.nvml import Nvml, NvmlCounter, NvmlGauge, find_energy, open_nvml
from llx.bench.machine.watch import Watch, meter_for
from llx.gpu import Gpu, find_gpu
from tests.doubles.nvml import NvmlDouble, NVMLError

CARD = Gpu("a card", 90, 80 << 30, "0000:65:00.0")
RESTART = NVMLError("GPU is lost")


def opened(monkeypatch, gpu=CARD, **answers):
    double = NvmlDouble(**answers)
    monkeypatch.setitem(sys.modules, "pynvml", double)
    return open_nvml(gpu), double


def test_energy_is_counted_by_the_driver_where_it_does(monkeypatch):
    gpu, double = opened(monkeypatch, energy=[1000, 5000, 9000], power=70_000)
    source = find_energy(gpu)
    assert isinstance(source, NvmlCounter)
    assert isinstance(meter_for(source), CounterMeter)
    assert source.joules(source.read(), source.read(), 1.0) == 4.0
    assert ("pci", b"0000:65:00.0") in double.asked
    assert not any(name == "power" for name, *_ in double.asked)


def test_a_counter_that_started_anew_tells_nothing(monkeypatch):
    gpu, _ = opened(monkeypatch, energy=[1, 5000, 20])
    source = find_energy(gpu)
    assert source.joules(source.read(), source.read(), 1.0) is None


def test_power_is_sampled_where_no_energy_is_counted(monkeypatch):
    gpu, _ = opened(monkeypatch, power=70_500)
    source = find_energy(gpu)
    assert isinstance(source, NvmlGauge)
    assert source.watts() == 70.5
    meter = meter_for(source)
    assert isinstance(meter, GaugeMeter)
    meter.close()


def test_a_jetsons_nvml_which_refuses_all_of_it_is_no_source(monkeypatch):
    gpu, _ = opened(monkeypatch)
    assert isinstance(gpu, Nvml)
    found = find_energy(gpu)
    assert isinstance(found, Missing)
    assert "neither energy nor power" in found.reason
    assert "tegrastats" in found.remedy
    state = gpu.state()
    assert (state.sm_mhz, state.memory_mhz, state.slowdowns, state.slowed_s) == (None,) * 2 + (
        (),
        None,
    )


@pytest.mark.parametrize("said", [-1, 1 << 62, "70 W", 3.5, RESTART])
def test_an_answer_that_cannot_be_is_none(monkeypatch, said):
    gpu, _ = opened(monkeypatch, energy=said, power=said, limit=said, clock=said, violation=said)
    assert isinstance(find_energy(gpu), Missing)
    assert gpu.power_limit_watts() is None
    assert gpu.state().sm_mhz is None
    assert gpu.state().slowed_s is None


def test_reasons_for_slow_clocks_are_named_and_idleness_is_none(monkeypatch):
    gpu, _ = opened(monkeypatch, reasons=0x01 | 0x02 | 0x04 | 0x40, clock=1410, violation=5 * 10**8)
    state = gpu.state()
    assert state.slowdowns == ("power cap", "thermal limit (hardware)")
    assert (state.sm_mhz, state.slowed_s) == (1410, 1.0)


def test_a_card_without_a_place_is_taken_only_where_there_is_no_other(monkeypatch):
    card = Gpu("a card", 90, 80 << 30)
    assert isinstance(opened(monkeypatch, card)[0], Nvml)
    found, _ = opened(monkeypatch, card, count=2)
    assert isinstance(found, Missing)
    assert "CUDA_VISIBLE_DEVICES" in found.remedy


def test_without_the_package_its_name_is_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml(CARD).remedy == "pip install nvidia-ml-py"


@pytest.mark.skipif(find_gpu() is not None, reason="there is a driver here")
def test_the_real_pynvml_says_that_there_is_no_driver():
    found = open_nvml(CARD)
    assert isinstance(found, Missing)
    assert "NVML Shared Library Not Found" in found.reason


def test_a_watch_asks_the_gpu_as_each_test_ends(monkeypatch, tmp_path):
    monkeypatch.setattr("llx.bench.machine.energy.IDLE_S", 0.0)
    opened(
        monkeypatch,
        energy=0,
        limit=350_000,
        clock=[1980, 2619, 1980, 2619, 1200, 2619, 1980, 2619],
        reasons=[0, 0x20, 0x20, 0],
        violation=[0, 0, 0, 10**9, 0, 10**9, 0, 2 * 10**9],
    )
    with Watch(CARD, tmp_path) as watch:
        for _ in range(2):
            with watch.window():
                pass
            watch.test_ended(8)
        run, card = watch.end(), watch.gpu()
    assert run.gpu_mhz_tests == (1200, 1980)
    assert run.gpu_memory_mhz_tests == (2619, 2619)
    assert run.gpu_slowdowns == ["thermal limit (software)"]
    assert run.gpu_slowed_s == 2.0
    assert (card.name, card.driver, card.power_limit_watts) == ("a card", "575.57.08", 350.0)
