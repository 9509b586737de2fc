"""JetPacks: which TensorRT a Jetson gets, and what is refused."""

from __future__ import annotations

import pytest

from llx.devices import DEVICES, devices_named
from llx.errors import BadInput
from llx.jetpack import JETPACKS, jetpack_for


def device(name):
    return devices_named(name)[0]


@pytest.mark.parametrize(
    ("name", "asked", "version", "tensorrt"),
    [
        ("agx-orin-64", None, "7.2", (10, 16)),
        ("orin-nano-8", "6.2", "6.2", (10, 3)),
        ("thor-t5000", "7.0", "7.0", (10, 13)),
        ("thor-t5000", None, "7.2", (10, 16)),
        ("agx-orin-64", "7.2.2", "7.2.2", (11, 4)),
    ],
)
def test_a_jetpack_by_name_or_the_newest_that_brings_its_tensorrt(name, asked, version, tensorrt):
    found = jetpack_for(device(name), asked)
    assert (found.version, found.tensorrt_version) == (version, tensorrt)


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("agx-orin-64", "5.1", "TensorRT 8.5.*update the Jetson, and choose among 6.1, 6.2, 7.2"),
        ("agx-orin-64", "6.0", "TensorRT 8.6"),
        ("agx-orin-64", "7.0", "no JetPack 7.0 for agx-orin-64"),
        ("thor-t5000", "6.2", "choose among 7.0, 7.1, 7.2, 7.2.2"),
        ("orin-nx-16", "7.2.2", "no JetPack 7.2.2"),
        ("h100-sxm", None, "no Jetson.*--remote user@host"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(name, asked, says):
    with pytest.raises(BadInput, match=says):
        jetpack_for(device(name), asked)


def test_every_jetson_of_the_catalogue_has_one():
    jetsons = [device for device in DEVICES if device.kind == "jetson"]
    assert {jetpack_for(device).shipped for device in jetsons} == {True}
    assert len({release.version for release in JETPACKS}) == len(JETPACKS)
