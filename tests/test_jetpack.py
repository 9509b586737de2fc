"""JetPacks: which TensorRT a Jetson gets, and what is refused."""

from __future__ import annotations

import pytest

from llx.devices import DEVICES, devices_named
from llx.errors import BadInput
from llx.jetpack import JETPACKS, jetpack_for, reported_not_to_build
from llx.precision import PRECISIONS


def device(name):
    return devices_named(name)[0]


@pytest.mark.parametrize(
    ("name", "asked", "version", "tensorrt"),
    [
        ("agx-orin-64", None, "6.2", (10, 3)),
        ("orin-nano-8", None, "6.2", (10, 3)),
        ("agx-orin-64", "7.2", "7.2", (10, 16)),
        ("orin-nano-8", "6.2", "6.2", (10, 3)),
        ("thor-t5000", "7.0", "7.0", (10, 13)),
        ("thor-t5000", None, "7.2", (10, 16)),
        ("agx-orin-64", "7.2.2", "7.2.2", (11, 4)),
    ],
)
def test_a_jetpack_by_name_or_the_one_that_most_of_its_boards_run(name, asked, version, tensorrt):
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


@pytest.mark.parametrize(
    ("name", "version", "precision", "said"),
    [
        ("agx-orin-64", "7.2", "int8", True),
        ("orin-nano-8", "7.2", "int8-wo", True),
        ("agx-orin-64", "7.2", "fp16", False),
        ("agx-orin-64", "6.2", "int8", False),
        ("thor-t5000", "7.2", "int8", False),
    ],
)
def test_what_is_reported_not_to_build_is_said_of_that_alone(name, version, precision, said):
    release = jetpack_for(device(name), version)
    found = reported_not_to_build(device(name), release, PRECISIONS[precision])
    assert bool(found) == said
    assert not found or "TensorRT#4832" in found
