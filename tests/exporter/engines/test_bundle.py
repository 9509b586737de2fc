"""A bundle: complete, whole or not at all, and run by what a JetPack has and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from llx.bundle import RECIPE, read_recipe
from llx.errors import BadInput
from llx.exporter.engines.build import BuildRequest
from llx.exporter.engines.bundle import Place, make_bundle, write_bundle
from llx.manifest import WEIGHTS
from llx.tensorrt import BuildOptions
from tests.conftest import export_tiny

RTX = Place(tensorrt="1.7")
JETPACK_6 = Place(tensorrt="10.3", device="Jetson AGX Orin", sm=87, jetpack="6.2", l4t="36.4")
# What a JetPack has beside Python itself; TensorRT-RTX stands in for its TensorRT.
THERE = ("numpy", "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs")

BLOCKED = """
import importlib.abc, runpy, sys
lib = sys.argv[1] + "/lib"
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ("llx", "polygraphy"):
            for finder in sys.meta_path[1:]:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    assert spec.origin.startswith(lib), spec
                    return spec
        elif top not in sys.stdlib_module_names and top not in {there!r}:
            raise ImportError("blocked: " + name)
        return None
sys.meta_path.insert(0, Block())
script = sys.argv[1] + "/run.py"
sys.argv = [script, *sys.argv[2:]]
runpy.run_path(script, run_name="__main__")
"""


def request(**options):
    return BuildRequest(runtime="trt-rtx", sm=86, **options)


def bundle_of(artifact, place=RTX, **options):
    return make_bundle(artifact, request(**options), place, {"prompts": (8,), "generated": (4,)})


@pytest.fixture(scope="module")
def fp16(tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("fp16"), "fp16")


@pytest.fixture(scope="module")
def written(fp16, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "rtx"
    assert write_bundle(bundle_of(fp16), folder)
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )


def test_it_builds_with_what_a_jetpack_has_and_nothing_else(bundle):
    """The whole device side: every import that it does, while it builds a real engine."""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED.replace("{there!r}", repr(THERE)), bundle, "build"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    record = json.loads((bundle / "out" / "build.json").read_text())
    assert record["plan_bytes"] == (bundle / "out" / "engine.plan").stat().st_size > 100_000
    assert record["layers"]["KV_CACHE_UPDATE"] == 4
    assert record["peak_host_bytes"] > 1 << 20
    assert not list(bundle.rglob("__pycache__"))


WATCHED = """
from llx.bench.machine.watch import Watch
from llx.gpu import Gpu
with Watch(Gpu("Orin", 87, 1)) as watch:
    with watch.window():
        pass
    print(watch.test_ended(1).reason or "measured", watch.end().seconds > 0)
"""


def test_energy_and_clocks_are_read_with_what_a_jetpack_has(bundle):
    code = BLOCKED.replace("{there!r}", repr(THERE)).partition("script =")[0]
    ended = subprocess.run(
        [sys.executable, "-I", "-c", f"{code}\nsys.path.insert(0, lib)\n{WATCHED}", bundle],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("True\n")


def test_all_at_once_ends_with_what_is_lacking_and_keeps_the_engine(bundle):
    ended = run(bundle)
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        "run.py: an engine needs an NVIDIA GPU and its driver, and none is here: run the bundle on "
        "the device that it is for; an engine that was built is kept"
    ]
    out = bundle / "out"
    plan = (out / "engine.plan").read_bytes()
    assert json.loads((out / "samples.json").read_text())["problem"]["exit_code"] == 3
    assert json.loads((out / "device.json").read_text())["tensorrt"].startswith("1.7.")
    assert "nothing to do" in run(bundle, "build").stdout
    assert (out / "engine.plan").read_bytes() == plan


@pytest.mark.parametrize("name", [WEIGHTS, "standard.onnx", "lib/llx/tensorrt.py"])
def test_a_file_that_was_changed_is_never_run(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    ended = run(bundle, "build")
    assert ended.returncode == 2
    assert ended.stderr == f"run.py: {name} is not what was sent: copy the bundle again\n"
    assert not (bundle / "out").exists()


def test_a_machine_with_another_tensorrt_is_told(bundle):
    recipe = json.loads((bundle / RECIPE).read_text())
    recipe["needs"]["tensorrt"] = "10.3"
    (bundle / RECIPE).write_text(json.dumps(recipe))
    ended = run(bundle, "check", "--json")
    assert ended.returncode == 3
    message, remedy, code = json.loads(ended.stdout.splitlines()[-1])["error"]
    assert "and this is for 10.3" in message
    assert "--jetpack" in remedy
    assert code == 3


def pythons():
    named = shutil.which("python3.10")
    found = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    return found or ([named] if named and not os.environ.get("PYENV_ROOT") else [])


@pytest.mark.skipif(not pythons(), reason="no Python 3.10, which JetPack 6 has")
def test_every_carried_file_compiles_on_jetpacks_python(bundle):
    ended = subprocess.run(
        [pythons()[0], "-m", "compileall", "-q", bundle],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_the_graph_is_the_one_for_the_tensorrt_there(fp16, tmp_path):
    bundle = make_bundle(fp16, BuildRequest(runtime="trt", context=48), JETPACK_6, {})
    write_bundle(bundle, tmp_path / "orin")
    recipe = read_recipe(tmp_path / "orin")
    assert recipe == bundle.recipe
    assert (recipe.dialect, recipe.contract.limits.capacity) == ("primitive", 48)
    graph = onnx.load(tmp_path / "orin" / "primitive.onnx", load_external_data=False)
    past = next(value for value in graph.graph.input if value.name == "past.0.key")
    assert past.type.tensor_type.shape.dim[2].dim_value == 48
    assert {entry.value for t in graph.graph.initializer for entry in t.external_data} >= {WEIGHTS}


def test_from_tensorrt_10_15_on_the_cache_is_the_graphs(fp16):
    place = Place(tensorrt="10.16", jetpack="7.2")
    assert make_bundle(fp16, BuildRequest(runtime="trt"), place, {}).recipe.dialect == "standard"


def test_the_licences_are_carried_and_the_tools_are_not(written):
    assert "Apache License" in (written / "lib" / "LICENSE").read_text()
    assert "Apache" in (written / "lib" / "polygraphy" / "METADATA").read_text()
    assert not (written / "lib" / "polygraphy" / "tools").exists()


def test_the_same_again_is_nothing_and_another_wants_a_word(fp16, bundle):
    before = (bundle / RECIPE).stat().st_mtime_ns
    assert not write_bundle(bundle_of(fp16), bundle)
    assert (bundle / RECIPE).stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r"another bundle.*--overwrite"):
        write_bundle(bundle_of(fp16, context=32), bundle)
    assert write_bundle(bundle_of(fp16, context=32), bundle, overwrite=True)
    assert read_recipe(bundle).contract.limits.capacity == 32


def test_what_is_no_bundle_is_never_replaced(fp16, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(BadInput, match=r"what is no bundle: choose another -o$"):
        write_bundle(bundle_of(fp16), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_damaged_weights_are_found_before_they_travel(tmp_path):
    artifact = export_tiny(tmp_path, "fp16")
    data = bytearray((artifact.folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (artifact.folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BadInput, match="not what was exported"):
        write_bundle(bundle_of(artifact), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle*"))


def test_a_stripped_engine_has_no_weights_there(fp16):
    with pytest.raises(BadInput, match="leave --strip out"):
        bundle_of(fp16, options=BuildOptions(strip=True))
