"""NVML of a real GPU."""

from __future__ import annotations

import pytest

from llx.bench.machine.energy import Missing
from llx.bench.machine.nvml import Nvml, find_energy, open_nvml
from llx.bench.machine.watch import Watch

pytestmark = pytest.mark.gpu


def test_the_gpu_of_cuda_is_found_and_tells_its_energy(gpu):
    found = open_nvml(gpu)
    assert isinstance(found, Nvml)
    assert found.driver()
    assert not isinstance(find_energy(found), Missing)


def test_an_idle_gpu_uses_some_watts(gpu):
    with Watch(gpu) as watch:
        idle = watch.test_ended(1).idle_watts
        assert watch.end().gpu_mhz_before
    assert 1 < idle < 2000
