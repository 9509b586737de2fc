"""What an older llx wrote is opened, run, judged, compared, reported and checked by this one.

`fixtures/v1` was written by llx 0.1.0 and is never written anew: see its README.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

from llx.api.reference import open_reference
from llx.artifact import open_artifact
from llx.bench.sessions.ort import OrtSession
from llx.checks import Checked
from llx.engine import engines_of
from llx.plans import Plans
from llx.result import read_results
from tests.cli.test_bad_input import assert_refused
from tests.conftest import logits_on_text
from tests.exporter.test_readme import greedy

V1 = Path(__file__).parent / "fixtures" / "v1"
ARTIFACTS = ("fp32", "int8")
PROMPT = [40, 73, 80, 80, 83]


@pytest.fixture
def v1(tmp_path):
    """A copy of them, in the working directory of `llx`."""
    shutil.copytree(V1, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_they_are_what_was_written_then():
    sums = (line.split("  ") for line in (V1 / "SHA256SUMS").read_text().splitlines())
    named = {name: digest for digest, name in sums}
    files = {path.relative_to(V1).as_posix() for path in V1.rglob("*") if path.is_file()}
    assert files - named.keys() == {"README.md", "SHA256SUMS"}
    for name, digest in named.items():
        assert sha256((V1 / name).read_bytes()).hexdigest() == digest, name
    assert sum((V1 / name).stat().st_size for name in files) < 850_000


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_opens_whole_and_passes_the_check(llx, v1, name):
    assert open_artifact(v1 / name).damaged() == []
    ended = llx("check", name)
    assert (ended.code, ended.stderr) == (0, "")
    assert "ort: the ONNX checker, the contract, the model's numbers" in ended.stdout


def test_every_graph_of_it_computes_what_pytorch_does():
    artifact = open_artifact(V1 / "fp32")
    wanted = logits_on_text(open_reference(artifact))
    assert sorted(artifact.dialects) == ["ort", "primitive", "standard"]
    for dialect in artifact.dialects:
        found = logits_on_text(OrtSession(artifact, dialect=dialect))
        assert np.abs(found - wanted).max() < 1e-4, dialect
    tokens = greedy(open_reference(artifact), PROMPT, 24)
    assert greedy(OrtSession(artifact), PROMPT, 24) == tokens


def test_it_generates_what_pytorch_does(llx, v1):
    said = [llx("generate", "fp32", "Hello", "--engine", e, "-n", 9) for e in ("torch", "ort")]
    assert [ended.code for ended in said] == [0, 0]
    assert said[0].stdout == said[1].stdout != ""
    assert llx("generate", "int8", "Hello", "--chat", "-n", 3).code == 0


def test_it_is_judged_against_its_own_reference(llx, v1):
    words = ("--engine", "ort", "-p", 8, "-n", 4, "-r", 2, "--no-roofline", "-o", "json")
    ended = llx("bench", "fp32", *words)
    assert ended.code == 0
    (found,) = json.loads(ended.stdout)
    (then,) = (one for one in read_results(V1 / "results.json") if one.engine == "ort")
    assert found["fidelity"]["kld"]["mean"] < 1e-6
    assert found["fidelity"]["tokens"] == then.fidelity.tokens
    assert found["artifact"]["sha256"] == then.artifact.sha256


def test_its_engine_is_known_and_inspected(llx, v1):
    (engine,) = engines_of(open_artifact(v1 / "fp32"))
    assert (engine.manifest.key.sm, engine.intact) == (86, True)
    assert "sm86" in llx("inspect", "fp32").stdout


def test_a_bundle_that_was_run_is_collected(llx, v1):
    ended = llx("collect", "bundle", "--artifact", "fp32", "-o", "json")
    assert (ended.code, ended.stderr) == (0, "")
    (found,) = json.loads(ended.stdout)
    assert [(row["test"], len(row["samples"])) for row in found["speed"]] == [
        ("pp20", 5),
        ("tg6", 5),
    ]
    assert found["fidelity"]["tokens"] == 46


def test_results_are_compared_as_they_were(llx, v1):
    ended = llx("compare", "results.json", "again.jsonl", "-o", "json")
    assert ended.code == 0
    then, now = json.loads((v1 / "comparison.json").read_text()), json.loads(ended.stdout)
    assert then["schema"] == now["schema"]
    assert now["regressed"] == then["regressed"]
    found = {(one["engine"], one["metric"]): one for one in now["compared"]["changes"]}
    assert len(then["compared"]["changes"]) == 25
    for one in then["compared"]["changes"]:
        same = found[one["engine"], one["metric"]]
        for key in ("artifact", "kind", "unit", "before", "after", "verdict"):
            assert same[key] == one[key], key


def test_gates_scores_and_a_history_are_read_with_them(llx, v1):
    gated = llx("compare", "results.json", "again.jsonl", "--gate", "gates.toml")
    assert (gated.code, gated.stderr) == (0, "")
    past = llx("compare", "again.jsonl", "--history", "history.jsonl").stdout
    assert "history has no torch with fp32" in past  # so it has one of ort
    assert "9 no change" in past
    every = ("results.json", "again.jsonl", "eval.json")
    ended = llx("report", *every, "--no-baseline", "-o", "site", "--history", "history.jsonl")
    assert (ended.code, ended.stderr) == (0, "")
    text = (v1 / "site" / "report.md").read_text()
    assert "llx_choice" in text
    lines = (v1 / "history.jsonl").read_bytes()
    assert lines.startswith((V1 / "history.jsonl").read_bytes())
    assert llx("convert", *every, "-o", "csv").code == 0


def test_a_plan_and_a_check_are_what_their_types_say():
    plan = msgspec.json.decode((V1 / "plan.json").read_bytes(), type=Plans)
    assert [one.device.name for one in plan.plans] == ["orin-nx-8", "orin-nano-8"]
    assert msgspec.json.decode((V1 / "check.json").read_bytes(), type=Checked).passed


SEEN_BEFORE = "bytes: 7 files are what the manifest vouches for\n"
COMMANDS = {
    "a bundle": ("bundle/recipe.json", "collect bundle --artifact fp32"),
    "an artifact": ("fp32/manifest.json", "check fp32"),
    "an artifact that is run": ("fp32/manifest.json", "generate fp32 Hello"),
    "an artifact that is measured": ("int8/manifest.json", "bench int8"),
    "an engine": ("fp32/engines/*/manifest.json", "check fp32"),
    "an engine that is listed": ("fp32/engines/*/manifest.json", "inspect fp32"),
    "results": ("results.json", "report results.json -o site"),
    "results before": ("results.json", "compare results.json again.jsonl"),
    "results in lines": ("again.jsonl", "compare results.json again.jsonl"),
    "results to convert": ("again.jsonl", "convert again.jsonl -o md"),
    "scores": ("eval.json", "report eval.json -o site"),
    "a history to judge by": ("history.jsonl", "compare again.jsonl --history history.jsonl"),
    "a history to add to": (
        "history.jsonl",
        "report again.jsonl -o site --history history.jsonl",
    ),
}


@pytest.mark.parametrize(("pattern", "command"), COMMANDS.values(), ids=COMMANDS)
def test_what_a_newer_llx_wrote_is_said_to_be_that_and_stays_as_it_is(llx, v1, pattern, command):
    (path,) = v1.glob(pattern)
    data = path.read_bytes()
    schema = data[data.index(b'"llx.') + 1 :].partition(b'"')[0].decode()
    newer = schema.replace("/1", "/2")
    at = data.rindex(schema.encode())  # in the last of several
    path.write_bytes(data[:at] + newer.encode() + data[at + len(schema) :])
    kept = path.read_bytes()
    ended = llx(*command.split())
    ended = replace(ended, stdout=ended.stdout.removeprefix(SEEN_BEFORE))
    assert_refused(ended, 2, f"{path.name} was written by a newer llx ({newer})", "upgrade")
    assert ended.stderr.count("\n") == 1
    assert path.read_bytes() == kept
    assert not (v1 / "site").exists()


@pytest.mark.parametrize("name", ["plan", "check", "comparison"])
def test_what_is_no_result_is_not_taken_for_one_whatever_its_schema(llx, v1, name):
    path = v1 / f"{name}.json"
    path.write_text(path.read_text().replace(f"llx.{name}/1", f"llx.{name}/2"))
    assert_refused(llx("report", path.name, "-o", "site"), 2, f"{name}.json is not a list of llx.r")
    assert not (v1 / "site").exists()
