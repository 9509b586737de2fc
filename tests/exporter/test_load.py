"""The checkpoint that an artifact was exported from is found again: the very same, or none."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from llx import places
from llx.api.export import export
from llx.api.reference import open_reference
from llx.artifact import Artifact, open_artifact
from llx.errors import Lacking
from llx.exporter.load import exported_source
from llx.files import state_folder
from tests.checkpoints import TINY, random_tensors, write_checkpoint

ONE, OTHER = random_tensors(TINY, 1), random_tensors(TINY, 2)


def read_again(artifact):
    source = exported_source(artifact)
    return {name: source.read(name) for name in source.tensors}


def same(found, model):
    return all(torch.equal(found[name], tensor) for name, tensor in model.items())


def hub_cache(root, checkpoint):
    """A checkpoint as the hub's cache keeps it: links to files named by their hashes."""
    blobs, snapshot = root / "blobs", root / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        os.symlink(f"../../blobs/{number:040x}", snapshot / file.name)
    return snapshot


@pytest.mark.parametrize("named", ["", "model.safetensors", "config.json"])
def test_a_snapshot_of_the_hubs_cache_is_found_again_and_called_by_its_model(tmp_path, named):
    checkpoint = write_checkpoint(tmp_path / "plain", TINY, ONE)
    snapshot = hub_cache(tmp_path / "models--some--Tiny-Llama", checkpoint)
    artifact = export(weights=snapshot / named, precision="fp16", output=tmp_path / "out")
    assert artifact.manifest.source.label == "tiny-llama"
    assert same(read_again(artifact), ONE)
    open_reference(artifact).close()


def test_a_file_that_was_named_is_the_one_that_is_read_again(tmp_path):
    folder = write_checkpoint(tmp_path / "two", TINY, ONE)
    save_file(OTHER, folder / "other.safetensors")
    artifact = export(weights=folder / "other.safetensors", output=tmp_path / "out")
    assert same(read_again(artifact), OTHER)


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def first(folder):
    """model.safetensors comes before an index in transformers."""
    file = folder / "model.safetensors"
    file.rename(folder / "model-00001-of-00001.safetensors")
    save_file(OTHER, file)


CHANGES = {
    "other weights": lambda folder: save_file(OTHER, folder / "model.safetensors"),
    "another configuration": lambda folder: configured(folder, rope_theta=123.0),
    "another file that is taken first": first,
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": shutil.rmtree,
}


def test_a_checkpoint_that_was_written_again_is_the_same_one(tmp_path):
    folder = write_checkpoint(tmp_path / "model", TINY, ONE)
    artifact = export(weights=folder, precision="fp16", output=tmp_path / "half")
    os.utime(folder / "model.safetensors", ns=(0, 0))
    assert same(read_again(artifact), ONE)


def test_one_of_which_only_size_and_time_were_noted_is_that_of_the_same_time(tmp_path):
    folder = write_checkpoint(tmp_path / "model", TINY, ONE)
    artifact = export(weights=folder, precision="fp16", output=tmp_path / "half")
    artifact = as_llx_010_noted(artifact, folder)
    assert same(read_again(artifact), ONE)
    os.utime(folder / "model.safetensors", ns=(0, 0))
    with pytest.raises(Lacking, match="changed since"):
        read_again(artifact)


def as_llx_010_noted(artifact, folder):
    """The artifact, as if that had exported it: with absolute paths, and without hashes."""
    source = artifact.manifest.source
    files = tuple(replace(f, path=str(folder / f.path), sha256=None) for f in source.files)
    source = replace(source, path=str(folder), files=files)
    return Artifact(artifact.folder, replace(artifact.manifest, source=source))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_that_has_changed_judges_nothing(tmp_path, change):
    folder = write_checkpoint(tmp_path / "model", TINY, ONE)
    half = export(weights=folder, precision="fp16", output=tmp_path / "half")
    whole = export(weights=folder, precision="fp32", output=tmp_path / "whole")
    change(folder)
    with pytest.raises(
        Lacking, match=r"checkpoint .*(changed since|not here|read any more)|not the checkpoint's"
    ):
        open_reference(half)
    # What was exported in fp32 is there itself.
    session = open_reference(whole)
    assert "checkpoint" not in session.weights
    session.close()


def copied_away(tmp_path):
    """An artifact, and a copy of it beside which no checkpoint lies."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", TINY, ONE)
    artifact = export(weights=checkpoint, output=tmp_path / "out")
    copy = shutil.copytree(artifact.folder, tmp_path / "far" / "away" / "copy")
    return checkpoint, open_artifact(copy)


def test_a_copy_of_an_artifact_finds_its_checkpoint_where_this_user_had_it(tmp_path):
    checkpoint, copy = copied_away(tmp_path)
    assert same(read_again(copy), ONE)
    # The same weights with other settings are another checkpoint.
    other = write_checkpoint(tmp_path / "other", TINY, ONE)
    configured(other, rms_norm_eps=1e-3)
    export(weights=other, output=tmp_path / "out-of-other")
    assert exported_source(copy).spec == TINY
    save_file(OTHER, checkpoint / "model.safetensors")
    with pytest.raises(Lacking, match="is not here"):
        exported_source(copy)


@pytest.mark.parametrize("notes", [b"", b"[]", b'{"a": 1}', b"\xff", None])
def test_without_a_note_that_can_be_read_it_is_not_found_and_nothing_else(tmp_path, notes):
    checkpoint, copy = copied_away(tmp_path)
    if notes is None:
        (state_folder() / places.NOTES).unlink()
    else:
        (state_folder() / places.NOTES).write_bytes(notes)
    with pytest.raises(Lacking, match="is not here"):
        exported_source(copy)
    export(weights=checkpoint, output=tmp_path / "out")  # there already: noted once more
    assert same(read_again(copy), ONE)
