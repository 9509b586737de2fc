"""Tensors that a family stores as one: each of the model's is rows of it, whatever the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llx.api.check import check
from llx.errors import BadInput
from llx.exporter.load import llama_from_source
from llx.exporter.sources import check_coverage
from llx.exporter.sources.huggingface import HuggingFaceSource
from tests.checkpoints import KIN_SPECS, TINY, random_tensors, write_bin, write_checkpoint
from tests.conftest import export_tiny

PHI = KIN_SPECS["part-turned"]
LAYER = "model.layers.1."
QKV = f"{LAYER}self_attn.qkv_proj.weight"
GATE_UP = f"{LAYER}mlp.gate_up_proj.weight"
WRITERS = {
    "a file": write_checkpoint,
    "shards": lambda folder, spec, tensors: write_checkpoint(folder, spec, tensors, shards=3),
    "PyTorch's": write_bin,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_part_and_every_block_of_it_is_what_was_stored(write, tmp_path):
    tensors = random_tensors(PHI)
    source = HuggingFaceSource(write(tmp_path, PHI, tensors))
    check_coverage(source)
    assert source.spec == PHI
    assert dict(source.tensors).keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert source.tensors[name].shape == tuple(tensor.shape)
        torch.testing.assert_close(source.read(name), tensor, rtol=0, atol=0)
        block = source.read(name, slice(1, 3))
        torch.testing.assert_close(block, tensor[1:3], rtol=0, atol=0)
        if tensor.ndim == 2:
            block = source.read(name, slice(1, None), slice(4, 8))
            torch.testing.assert_close(block, tensor[1:, 4:8], rtol=0, atol=0)
    assert llama_from_source(source).layers[1].qkv.weight.shape == (36, 100)


def changed(folder, change):
    """The folder of a Phi-3 whose stored tensors are changed."""
    write_checkpoint(folder, PHI, random_tensors(PHI))
    file = folder / "model.safetensors"
    stored = load_file(file)
    change(stored)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file)
    return folder


def refusal_of(folder):
    with pytest.raises(BadInput) as refused:
        check_coverage(HuggingFaceSource(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_fused_tensor_of_another_shape_is_named_with_its_parts(tmp_path):
    folder = changed(tmp_path, lambda stored: stored.update({QKV: stored[QKV][:99]}))
    says = f"{QKV} is [99, 36] where the model needs [100, 36], the rows of q_proj, k_proj, v_proj"
    assert says in refusal_of(folder)


def test_a_fused_tensor_that_is_missing_or_one_too_many_is_named(tmp_path):
    assert "mlp.gate_proj.weight" in refusal_of(changed(tmp_path / "a", lambda s: s.pop(GATE_UP)))
    one = f"{LAYER}self_attn.q_proj.weight"
    twice = changed(tmp_path / "b", lambda s: s.update({one: torch.ones(60, 36)}))
    assert f"holds {one}, and {QKV}, which it is a part of" in refusal_of(twice)
    beyond = QKV.replace("layers.1", "layers.2")
    longer = changed(tmp_path / "c", lambda s: s.update({beyond: s[QKV].clone()}))
    assert beyond in refusal_of(longer)


def test_a_shard_without_the_fused_tensor_that_its_index_names_is_named(tmp_path):
    write_checkpoint(tmp_path, PHI, random_tensors(PHI), shards=2)
    index = tmp_path / "model.safetensors.index.json"
    file = tmp_path / json.loads(index.read_text())["weight_map"][QKV]
    save_file({name: t for name, t in load_file(file).items() if name != QKV}, file)
    assert f"{file.name} lacks {QKV}" in refusal_of(tmp_path)


def test_a_family_that_stores_them_apart_does_not_take_them_fused(tmp_path):
    """Its rows may be in any order there, and transformers would not load it either."""
    write_checkpoint(tmp_path, TINY, random_tensors(TINY))
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    parts = [stored.pop(f"{LAYER}self_attn.{one}_proj.weight") for one in "qkv"]
    save_file(stored | {QKV: torch.cat(parts)}, file)
    assert "q_proj.weight" in refusal_of(tmp_path)


@pytest.mark.parametrize("name", ["part-turned", "longrope-of-16"])
def test_what_is_exported_of_it_passes_check(name, tmp_path):
    artifact = export_tiny(tmp_path, spec=KIN_SPECS[name])
    assert any(line.startswith("parity of") for line in check(artifact, engines=["torch", "ort"]))
