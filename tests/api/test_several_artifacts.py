"""Several artifacts in one measurement: each is measured, and all are checked before any is."""

from __future__ import annotations

import json

import pytest

import llx
from tests.conftest import export_tiny


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    first = export_tiny(folder).folder.rename(folder / "one")
    return first, export_tiny(folder, "fp16").folder.rename(folder / "two")


SHORT = {"prompts": [8], "generated": [], "fidelity": False, "roofline": False, "repetitions": 5}


def test_each_artifact_is_measured_on_each_engine(two):
    found = llx.bench(list(two), engines=["torch", "ort"], **SHORT)
    assert [(one.artifact.name, one.engine) for one in found] == [
        ("tiny-fp32", "torch"), ("tiny-fp32", "ort"), ("tiny-fp16", "torch"), ("tiny-fp16", "ort"),
    ]  # fmt: skip
    assert all(one.speed for one in found)
    assert "one" in found[0].command
    assert "two" in found[0].command


def test_all_are_opened_before_any_is_measured(two, tmp_path, monkeypatch):
    monkeypatch.setattr("llx.api.bench.run_all", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(llx.BadInput, match="none-there"):
        llx.bench([two[0], tmp_path / "none-there"], **SHORT)
    with pytest.raises(llx.BadInput):
        llx.bench(list(two), **{**SHORT, "depths": [100_000]})


def test_none_are_the_one_exported_last(two, monkeypatch):
    seen = []
    monkeypatch.setattr("llx.api.bench.run_all", lambda jobs, *_: seen.extend(jobs))
    monkeypatch.setattr("llx.api.watching.open_artifact", lambda _: llx.open_artifact(two[1]))
    llx.bench([], **SHORT)
    assert [job.folder for job in seen] == [two[1]]


def test_the_command_takes_several(two, llx):
    ended = llx(
        "bench", str(two[0]), str(two[1]), "-p", "8", "-n", "0", "--no-fidelity", "--no-roofline",
        "-o", "json",
    )  # fmt: skip
    assert ended.code == 0
    names = ["tiny-fp32", "tiny-fp16"]
    assert [one["artifact"]["name"] for one in json.loads(ended.stdout)] == names
