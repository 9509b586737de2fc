"""One model in every format: the very same artifact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llx.bench.sessions import ENGINES
from llx.errors import BadInput
from llx.exporter.export import export
from llx.exporter.locate import RandomWeights, locate
from llx.exporter.request import ExportRequest
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.gguf_rope import LONG
from llx.llama.presets import Preset
from llx.precision import PRECISIONS
from tests.checkpoints import (
    KIN_SPECS,
    TINY,
    architecture_of,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)
from tests.parity import compare

PRESET = Preset(
    name="tiny", family="tiny", size="1k", hub_id="nobody/tiny", licence="none", spec=TINY
)
HALVES = {name: tensor.half() for name, tensor in random_tensors(TINY).items()}
WIDENED = {name: tensor.float() for name, tensor in HALVES.items()}
WRITERS = {
    "safetensors in three shards": lambda f: write_checkpoint(f, TINY, HALVES, 3, False),
    "PyTorch's": lambda f: write_bin(f, TINY, HALVES),
    "Meta's, one shard": lambda f: write_meta(f, TINY, HALVES, 1),
    "Meta's, two shards as Llama 2": lambda f: write_meta(f, TINY, HALVES, 2, 1),
    "Meta's, two shards as Llama 3": lambda f: write_meta(f, TINY, HALVES, 2, 0),
    "GGUF f16": lambda f: write_gguf(f / "tiny.gguf", TINY, WIDENED, "f16"),
}
# What a GGUF file can say of each: no window but Phi-3's, and of layers without RoPE every fourth.
SAID = {
    name: replace(spec, layers=5, nope=(3,)) if spec.nope else spec
    for name, spec in KIN_SPECS.items()
    if not spec.windowed or architecture_of(spec) == "phi3"
}


def exported(folder, weights, precision="fp16", preset=PRESET):
    request = ExportRequest(
        weights=weights, folder=folder, precision=PRECISIONS[precision], preset=preset
    )
    return export(request)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return exported(folder / "out", write_checkpoint(folder / "in", TINY, HALVES))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_artifact(plain, tmp_path, write):
    (tmp_path / "in").mkdir()
    artifact = exported(tmp_path / "out", write(tmp_path / "in"))
    assert artifact.sha256 == plain.sha256
    assert artifact.manifest.casts == plain.manifest.casts


@pytest.mark.parametrize("spec", SAID.values(), ids=SAID)
def test_kin_are_the_same_in_a_gguf_file_and_in_safetensors(tmp_path, spec):
    tensors = random_tensors(spec)
    plain = open_source(write_checkpoint(tmp_path / "plain", spec, tensors))
    source = open_source(write_gguf(tmp_path / "kin.gguf", spec, tensors))
    assert source.spec == plain.spec == spec
    assert source.tensors == plain.tensors
    assert set(check_coverage(source)) <= {LONG}
    assert source.warnings == []
    for name in tensors:
        assert torch.equal(source.read(name), plain.read(name)), name


@pytest.mark.parametrize("name", ["window", "window-of-one-layer"])
def test_mistrals_window_is_not_in_a_gguf_file(tmp_path, name):
    """llama.cpp's converter does not write it: a Mistral 0.1 sees all, there and here."""
    spec = KIN_SPECS[name]
    tensors = random_tensors(spec)
    source = open_source(write_gguf(tmp_path / "mistral.gguf", spec, tensors))
    assert source.spec == replace(spec, window=None, windowed=())
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())


def test_random_weights_run_and_are_labelled(tmp_path):
    artifact = exported(tmp_path / "a", RandomWeights(3), "fp32")
    again = exported(tmp_path / "b", RandomWeights(3), "fp32")
    other = exported(tmp_path / "c", RandomWeights(4), "fp32")
    assert artifact.sha256 == again.sha256 != other.sha256
    assert artifact.manifest.source.label.startswith("random weights, seed 3")
    ort, eager = (ENGINES[name].open(artifact, 1) for name in ("ort", "torch"))
    found = compare(ort, eager)
    assert found.decode_error < 1e-4
    assert 0.1 < found.spread < 10
    for session in (ort, eager):
        session.close()


def test_graphs_only_are_the_graphs_of_the_whole_export(plain, tmp_path):
    bare = exported(tmp_path / "bare", None)
    name = "standard.onnx"
    assert bare.manifest.files[name] == plain.manifest.files[name]
    assert not bare.has("weights.safetensors")


def test_graphs_only_cannot_be_run_and_say_so(llx, tmp_path):
    assert llx("export", "--size", "135m", "--weights", "none", "-o", "out").code == 0
    assert llx("inspect").code == 0
    ended = llx("bench", "--engine", "ort", "-p", "4", "-n", "4")
    assert ended.code == 2
    assert "exported with --weights none" in ended.stderr


def test_the_hubs_local_cache_is_used_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--nobody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    write_checkpoint(repository / "snapshots" / "abc123", TINY)
    found = locate("nobody/tiny", None)
    assert found == repository / "snapshots" / "abc123"


def test_a_download_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    asked = []
    folder = write_checkpoint(tmp_path, TINY, shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.unlink()

    def download(hub_id, local_files_only, **_):
        asked.append(local_files_only)
        if not local_files_only:
            shard.write_bytes(whole)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate("nobody/tiny", None) == folder
    assert asked == [True, False]
    assert locate("nobody/tiny", None) == folder
    assert asked == [True, False, True]


def test_a_repository_of_other_files_says_which_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(BadInput, match=r"holds neither safetensors nor pytorch_model\.bin"):
        locate("nobody/tiny-GGUF", None)
