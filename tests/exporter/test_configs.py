"""The checkpoint's own settings in an artifact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.configs import configs_of
from llx.manifest import CONFIGS
from tests.checkpoints import write_checkpoint
from tests.conftest import export_tiny

GENERATION = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2], "do_sample": True}


def test_an_artifact_carries_them_hashed_as_its_other_files(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "generation_config.json").write_text(json.dumps(GENERATION))
    artifact = export_tiny(tmp_path)
    for name in CONFIGS:
        theirs = json.loads((checkpoint / name).read_bytes())
        assert json.loads((artifact.folder / name).read_bytes()) == theirs
        assert artifact.manifest.files[name].bytes == (artifact.folder / name).stat().st_size
        artifact.intact(name)
        (artifact.folder / name).write_bytes((artifact.folder / name).read_bytes()[:-1] + b" ")
        with pytest.raises(BadInput, match=name):
            artifact.intact(name)


def test_no_place_in_a_machine_is_carried(tmp_path):
    settings = {
        "_name_or_path": "someone/model",
        "hidden_size": 36,
        "trained_in": "/home/someone/run",
        "more": {"cache": "~/x", "kept": ["a/b", {"from": "C:\\\\Users\\\\someone"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    found = configs_of(tmp_path)["config.json"]
    assert json.loads(found) == {"hidden_size": 36, "more": {"kept": ["a/b", {}]}}
    assert b"someone" not in found


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_one_that_is_damaged_is_left_out(tmp_path, data):
    (tmp_path / "generation_config.json").write_bytes(data)
    assert configs_of(tmp_path) == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("/~a:\\\\ ", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_all_else_is_as_it_was(tmp_path_factory, settings):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text(json.dumps(settings))
    found = json.loads(configs_of(folder)["config.json"])

    def places(value):
        if isinstance(value, dict):
            return [p for one in value.values() for p in places(one)]
        if isinstance(value, list):
            return [p for one in value for p in places(one)]
        return [value] if isinstance(value, str) else []

    kept = [word for word in places(settings) if not word.strip().startswith(("/", "~"))]
    assert len(places(found)) <= len(kept)
    for key, value in settings.items():
        if not places(value):
            assert found[key] == value
