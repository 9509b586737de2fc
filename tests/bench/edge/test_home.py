"""A bundle that was run by hand, brought home: `llx collect`, its README, and the engine after."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import llx as door
from llx.bench.edge import device as edge
from llx.bench.edge import run_bundle
from llx.bench.sessions.fake import FakeSession
from llx.bundle import MACHINE, OBSERVED, PLAN, README, RECIPE, SAMPLES, read_recipe, write_record
from llx.probe import OUT
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny
from tests.exporter.test_readme import greedy
from tests.test_probe import ORIN


@pytest.fixture
def home(artifact, bundle, capfd):
    """What came back from the device: measured there, its description beside."""
    assert edge.run(bundle, "bench", as_json=True) == 0
    write_record(bundle, MACHINE, ORIN)
    capfd.readouterr()
    return bundle


def test_results_come_home_from_a_folder(llx, artifact, home):
    ended = llx("collect", home, "--artifact", artifact.folder, "-o", "json")
    assert (ended.code, ended.stderr) == (0, "")
    (found,) = json.loads(ended.stdout)
    assert [row["test"] for row in found["speed"]] == ["pp40", "tg6", "req20:4"]
    assert found["command"].startswith("llx collect ")
    assert found["time"]["build_s"] == 1.5
    assert found["memory"]["engine_bytes"] == len(b"an engine")
    assert found["environment"]["device"].startswith("NVIDIA Jetson AGX Orin")
    assert found["fidelity"]["kld"]["mean"] > 0
    assert len(found["other_texts"]) == 1
    (same,) = door.collect(home, artifact)
    assert same.speed[0].step_ns == found["speed"][0]["step_ns"]
    same_table = llx("collect", home, "--artifact", artifact.folder)
    assert (same_table.code, same_table.stderr) == (0, "")
    assert "pp40" in same_table.stdout


def test_what_came_home_is_compared_and_reported(llx, artifact, home, tmp_path):
    results = door.collect(home, artifact)
    results.write(tmp_path / "results.json")
    assert llx("report", "results.json", "-o", "site").code == 0
    assert llx("compare", "results.json", "results.json").code == 0


def test_the_artifact_is_found_by_its_identity(llx, artifact, home, tmp_path):
    assert_refused(llx("collect", home), 2, artifact.manifest.name, "name its folder with --artifa")
    shutil.copytree(artifact.folder, tmp_path / "artifacts" / "under another name")
    assert llx("collect", home).code == 0


def test_only_out_need_come_back_and_without_the_engine(artifact, home, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(home / RECIPE, kept)
    shutil.copytree(home / OUT, kept / OUT)
    (kept / OUT / PLAN).unlink()
    assert door.collect(kept, artifact)[0].speed


def test_what_failed_there_is_an_error_of_the_result(llx, artifact, home, monkeypatch):
    logits = FakeSession.logits
    monkeypatch.setattr(FakeSession, "logits", lambda self: logits(self) * np.float32(np.nan))
    assert edge.run(home, "bench", as_json=False) == 1
    ended = llx("collect", home, "--artifact", artifact.folder)
    assert ended.code == 1
    assert "not finite" in ended.stderr.splitlines()[-1]


def another(value, name="recipe"):
    def spoil(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "parts"),
    [
        (f"{OUT}/{SAMPLES}", lambda path: path.unlink(), ("has no samples.json", "python3 run.py")),
        (f"{OUT}/build.json", lambda path: path.unlink(), ("has no build.json", "copy its out/")),
        (f"{OUT}/{MACHINE}", lambda path: path.unlink(), ("has no device.json",)),
        (f"{OUT}/{OBSERVED}", lambda path: path.unlink(), ("has no fidelity.safetensors",)),
        (f"{OUT}/{SAMPLES}", another("x"), ("samples.json is of another bundle",)),
        (f"{OUT}/build.json", another("x"), ("build.json is of another bundle",)),
        (f"{OUT}/build.json", another(-1.0, "seconds"), ("a number that cannot be",)),
        (f"{OUT}/{MACHINE}", another(-1, "cpus"), ("a number that cannot be",)),
        (f"{OUT}/{SAMPLES}", lambda path: path.write_text("{"), ("is not what a bundle writes",)),
        (f"{OUT}/{OBSERVED}", lambda path: path.write_bytes(b"x" * 9), ("cannot be read",)),
        (f"{OUT}/{OBSERVED}", lambda path: path.write_bytes(bytes(4 << 20)), ("more than a bun",)),
        (RECIPE, lambda path: path.unlink(), ("it has no recipe.json", "llx build --device")),
        (RECIPE, lambda path: path.write_text("[]"), ("recipe.json is not a recipe",)),
        (RECIPE, another("llx.bundle/2", "schema"), ("newer llx (llx.bundle/2)", "upgrade")),
        (RECIPE, another("0" * 64, "artifact_sha256"), ("but of another artifact",)),
        (RECIPE, another("../x", "dialect"), ("is not what was written",)),
        (RECIPE, another({"prompts": [5000]}, "workload"), ("5000",)),
        (RECIPE, another({"prompts": "x"}, "workload"), ("recipe.json: ",)),
        (RECIPE, another("other", "llx"), ("is of another bundle",)),
    ],
)
def test_what_is_not_there_or_cannot_be_is_one_line(llx, artifact, home, name, spoil, parts):
    spoil(home / name)
    assert_refused(llx("collect", home, "--artifact", artifact.folder), 2, *parts)


def test_other_folders_are_told_what_is_meant(llx, artifact, home, tiny):
    words = ("--artifact", artifact.folder)
    assert_refused(llx("collect", home / OUT, *words), 2, "came out of a bundle", f"name {home}")
    assert_refused(llx("collect", tiny.folder, *words), 2, "is not a bundle")
    assert_refused(llx("collect", home, "--artifact", tiny.folder), 2, "of another artifact")


def test_the_readme_names_what_comes_out_and_its_commands_are_commands(home):
    text = (home / README).read_text()
    files = set(re.findall(r"^\| `([\w.]+)`", text, re.M))
    assert files >= {path.name for path in (home / OUT).iterdir() if path.suffix != ".lock"}
    assert {"python3 run.py", "python3 run.py check"} <= {
        line.partition("#")[0].strip("$ ") for line in text.splitlines() if line.startswith("$ ")
    }
    assert "TensorRT 10.3 (JetPack 6.2)" in text
    assert "$" not in re.sub(r"^\$ .*$", "", text, flags=re.M)
    assert max(map(len, text.splitlines())) <= 100


def test_the_readmes_program_gives_the_engines_tokens(home, monkeypatch, capfd):
    (program,) = re.findall(r"```python\n(.*?)```", (home / README).read_text(), re.S)
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(compile(program, README, "exec"), {})
    tokens = json.loads(capfd.readouterr().out)
    limits = read_recipe(home).contract.limits
    assert tokens == greedy(FakeSession(limits, 1), [1, 2, 3], 16)


def test_an_edited_readme_changes_nothing(home):
    (home / README).write_text("mine")
    assert run_bundle.first_damaged(home, "build") is None


def test_run_py_explains_itself_before_anything_is_looked_at(bundle):
    (bundle / RECIPE).unlink()
    for word in ("--help", "-h"):
        ended = subprocess.run(
            [sys.executable, bundle / "run.py", word], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        for part in ("check  ", "build  ", "bench  ", "--json", "out/", "llx collect", "README.md"):
            assert part in ended.stdout
    wrong = subprocess.run(
        [sys.executable, bundle / "run.py", "fly"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("run.py: fly is no command: choose one of check, build, bench")
    assert wrong.stderr.count("\n") == 1


def test_what_is_reported_not_to_build_is_said_before_a_bundle_is_written(llx, tmp_path):
    artifact = export_tiny(tmp_path, "int8")
    words = ("build", artifact.folder, "--device", "agx-orin-64")
    ended = llx(*words, "--jetpack", "7.2", "-o", "b72")
    assert ended.code == 0
    assert (
        "int8 with fp16 scales for JetPack 7.2 on an Orin is reported not to build" in ended.stderr
    )
    usual = llx(*words, "-o", "usual")
    assert (usual.code, usual.stderr) == (0, "")
    assert read_recipe(tmp_path / "usual").needs.jetpack == "6.2"
