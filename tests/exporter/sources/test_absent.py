"""A checkpoint that is not there, or not all of it: what is said of it, and what mends it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llx.errors import BadInput
from llx.exporter.sources import open_source
from tests.checkpoints import (
    TINY,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)

TENSORS = random_tensors(TINY)


def refused(path):
    with pytest.raises(BadInput) as caught:
        open_source(path, TINY).text()
    return str(caught.value)


WRITTEN = {
    "one file": write_checkpoint,
    "shards": lambda folder: write_checkpoint(folder, shards=2),
    "PyTorch's shards": lambda folder: write_bin(folder, TINY, TENSORS),
    "Meta's": lambda folder: write_meta(folder, TINY, TENSORS),
    "GGUF": lambda folder: write_gguf(folder / "tiny.gguf", TINY, TENSORS).parent,
}


def files_of(write, folder):
    folder.mkdir()
    return sorted(path.name for path in write(folder).iterdir())


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_file_that_is_a_link_to_nothing_is_called_that_whichever_it_is(tmp_path, kind):
    """It is never called missing, and never passed over in silence."""
    whole = tmp_path / "whole"
    for i, name in enumerate(files_of(WRITTEN[kind], whole)):
        folder = tmp_path / str(i)
        shutil.copytree(whole, folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/nowhere/blob")
        said = []
        try:
            source = open_source(folder, TINY, warnings=said)
            source.text()
        except BadInput as error:
            said.append(str(error))
        assert any("/nowhere/blob, which is not there" in line for line in said), (name, said)
        assert not any(f"{name} is missing" in line for line in said), (name, said)


def test_a_folder_of_checkpoints_names_some(tmp_path):
    for name in ("chat", "base"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    (tmp_path / "hub" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "hub" / "snapshots" / "abc" / "params.json").write_text("{}")
    (tmp_path / "quants" / "gguf").mkdir(parents=True)
    (tmp_path / "quants" / "gguf" / "tiny.gguf").write_bytes(b"GGUF")
    for name, found in (
        ("models", "base, chat"),
        ("hub", "snapshots/abc"),
        ("quants", "gguf/tiny.gguf"),
    ):
        said = refused(tmp_path / name)
        assert f"there are checkpoints below it: {found}" in said
        assert said.endswith("name one of them with --weights")


def test_shards_without_an_index_are_read_and_that_is_told(tmp_path):
    """Nothing can go wrong in silence: names say how many there are, coverage asks for each."""
    folder = write_checkpoint(tmp_path, shards=2)
    (folder / "model.safetensors.index.json").unlink()
    (told,) = open_source(folder).warnings
    assert "model-00001-of-00002.safetensors and 1 more is read though no index names it" in told
    assert "transformers" in told


class Call:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_not_to_be_downloaded_again(tmp_path, zipped, capsys):
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save({"x": Call()}, file, _use_new_zipfile_serialization=zipped)
    said = refused(folder)
    assert "would run" in said
    assert "print" in said
    assert "convert it to safetensors in a sandbox" in said
    assert "download" not in said
    assert "ran" not in capsys.readouterr().out


def test_a_key_that_is_misspelt_is_told_before_what_follows_from_it(tmp_path):
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["num_key_values_heads"] = config.pop("num_key_value_heads")
    config["rope_thetta"] = config.pop("rope_theta")
    config["num_hidden_layers"] = 0  # whatever it is that is refused then
    (folder / "config.json").write_text(json.dumps(config))
    told = []
    with pytest.raises(BadInput, match="num_hidden_layers"):
        open_source(folder, warnings=told)
    said = " ".join(told)
    assert "num_key_values_heads (is num_key_value_heads meant?)" in said
    assert "rope_thetta (is rope_theta meant?)" in said


def test_a_theta_that_is_not_said_is_told_with_the_default_that_is_taken(tmp_path):
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    (told,) = open_source(folder).warnings
    assert "does not say rope_theta: 10000 is taken" in told
