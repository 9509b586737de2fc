"""What a machine says of itself, what it lacks, and which files of a bundle have arrived."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llx import probe
from llx.probe import Machine, Needs, describe, inventory, l4t_of, partial_name, unmet

ORIN = Machine(
    architecture="aarch64",
    system="Linux 5.15",
    python="3.10.12",
    numpy="1.21.5",
    tensorrt="10.3.0",
    model="NVIDIA Jetson AGX Orin Developer Kit",
    l4t="36.4.3",
    power_mode="MAXN",
    clocks="schedutil",
    cpus=12,
    memory_bytes=64 << 30,
    memory_free_bytes=60 << 30,
    disk_free_bytes=100 << 30,
)
NEEDS = Needs("trt", "10.3", "6.2", "36.4", 14 << 30, 42 << 30)


def test_an_orin_with_the_right_jetpack_lacks_nothing():
    assert unmet(ORIN, NEEDS) is None


@pytest.mark.parametrize(
    ("change", "says", "remedy"),
    [
        ({"l4t": None}, "no Jetson: it has no /etc/nv_tegra_release", "--remote"),
        ({"l4t": "35.4.1"}, "Jetson Linux 35.4.1 is older than JetPack 6.2's 36.4", "--jetpack"),
        ({"l4t": "36.3.0"}, "older than JetPack 6.2", "update it"),
        ({"tensorrt": None}, "Python 3.10.12 has no trt", "--python"),
        ({"tensorrt": "10.30.1"}, "TensorRT 10.30.1, and this is for 10.3", "--jetpack"),
        ({"tensorrt": "8.6.2"}, "this is for 10.3", "--jetpack"),
        ({"python": "3.8.10"}, "Python 3.8.10 is older than 3.10", "--python"),
        ({"numpy": None}, "no numpy", "python3-numpy"),
        ({"memory_free_bytes": 10 << 30}, "10.7 GB of memory free", "smaller model"),
        ({"disk_free_bytes": 40 << 30}, "need 45.1 GB", "free space there"),
    ],
)
def test_what_a_machine_lacks_has_a_remedy(change, says, remedy):
    message, mends = unmet(replace(ORIN, **change), NEEDS)
    assert says in message
    assert remedy in mends


def test_a_newer_jetson_linux_with_the_same_tensorrt_will_do():
    assert unmet(replace(ORIN, l4t="36.5.0"), NEEDS) is None


def test_a_bundle_for_no_jetson_asks_for_none():
    needs = replace(NEEDS, jetpack=None, l4t=None)
    assert unmet(replace(ORIN, l4t=None), needs) is None


def test_the_release_is_read_from_the_file_that_jetson_linux_has(tmp_path):
    release = tmp_path / "nv_tegra_release"
    release.write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    )
    assert describe(["numpy"], str(tmp_path / "not" / "yet"), str(release)).l4t == "36.4.3"
    assert l4t_of("Debian") is None


def test_this_machine_is_described(tmp_path):
    found = describe(["no_such_module", "numpy"], str(tmp_path), str(tmp_path / "none"))
    assert found.tensorrt == found.numpy
    assert found.l4t is None
    assert 0 < found.memory_free_bytes < found.memory_bytes
    assert found.disk_free_bytes > 0


def old_pythons():
    return sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))


@pytest.mark.skipif(not old_pythons(), reason="no Python 3.8 under pyenv")
def test_a_python_that_is_too_old_can_still_say_so(tmp_path):
    script = Path(probe.__file__).read_text()
    script += (
        f"\nimport json\nprint(json.dumps(vars(describe(['no_such_module'], {str(tmp_path)!r}))))"
    )
    ended = subprocess.run(
        [old_pythons()[0], "-"], input=script, capture_output=True, text=True, check=True
    )
    found = Machine(**json.loads(ended.stdout))
    assert unmet(replace(found, tensorrt="10.3", l4t="36.4"), NEEDS)[0].startswith("its Python 3.8")


def record(data):
    return [len(data), hashlib.sha256(data).hexdigest()]


def test_the_inventory_keeps_what_is_right_and_removes_the_rest(tmp_path):
    files = {"a": record(b"one"), "lib/b.py": record(b"two"), "lib/c/d.py": record(b"three")}
    (tmp_path / "lib" / "old").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "engine.plan").write_text("made here")
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "lib" / "b.py").write_bytes(b"TWO")  # same size, another content
    (tmp_path / "lib" / "old" / "stale.py").write_text("an earlier bundle's")
    begun = tmp_path / partial_name("lib/c/d.py", files["lib/c/d.py"][1])
    begun.parent.mkdir()
    begun.write_bytes(b"th")
    (tmp_path / "lib" / "link.py").symlink_to("/etc/hostname")
    assert inventory(str(tmp_path), files) == {"lib/b.py": 0, "lib/c/d.py": 2}
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {
        "a",
        "lib",
        "lib/c",
        begun.relative_to(tmp_path).as_posix(),
        "out",
        "out/engine.plan",
    }


def test_a_beginning_of_another_content_is_no_beginning(tmp_path):
    (tmp_path / partial_name("a", record(b"old")[1])).write_bytes(b"ol")
    assert inventory(str(tmp_path), {"a": record(b"new")}) == {"a": 0}
    assert not list(tmp_path.iterdir())


def test_a_machine_survives_its_way_as_json():
    assert Machine(**json.loads(json.dumps(asdict(ORIN)))) == ORIN
