"""Adapters are no models: refused wherever they lie, with their base's name and how to merge."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import TINY, random_tensors, write_bin, write_checkpoint, write_gguf

TENSORS = random_tensors(TINY)
LORA = {
    f"base_model.model.model.layers.0.self_attn.q_proj.lora_{one}.weight": torch.ones(4, 4)
    for one in "AB"
}
BASES = {
    "a file": lambda folder: write_checkpoint(folder, TINY, TENSORS),
    "shards": lambda folder: write_checkpoint(folder, TINY, TENSORS, 2),
    "PyTorch's": lambda folder: write_bin(folder, TINY, TENSORS),
    "GGUF": lambda folder: write_gguf(folder / "model.gguf", TINY, TENSORS),
    "nothing": lambda folder: None,
    "a config alone": lambda f: write_checkpoint(f, TINY, TENSORS) / "model.safetensors",
}


def lay(folder, base, weights, named=True):
    folder.mkdir()
    made = BASES[base](folder)
    if base == "a config alone":
        made.unlink()
    save = save_file if weights.endswith("safetensors") else torch.save
    save(LORA, folder / weights)
    config = {"peft_type": "LORA"} | ({"base_model_name_or_path": "some/base"} if named else {})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("base", BASES)
def test_an_adapter_is_refused_wherever_it_lies(tmp_path, base, weights):
    folder = lay(tmp_path / "model", base, weights)
    with pytest.raises(BadInput) as caught:
        open_source(folder)
    assert "adapter for some/base" in caught.value.message
    assert "merge_and_unload" in caught.value.remedy
    alone = base in ("nothing", "a config alone")
    assert ("not a model" in caught.value.message) == alone
    assert ("--weights" in caught.value.remedy) != alone


def test_a_model_beside_an_adapter_is_read_where_its_file_is_named(tmp_path):
    folder = lay(tmp_path / "model", "a file", "adapter_model.safetensors", named=False)
    with pytest.raises(BadInput, match=r"holds an adapter \(adapter_model\.safetensors\) beside"):
        open_source(folder)
    source = open_source(folder / "model.safetensors")
    assert not check_coverage(source)
    assert torch.equal(source.read("model.norm.weight"), TENSORS["model.norm.weight"])


def test_an_adapter_without_its_config_is_one_where_it_lies_alone(tmp_path):
    folder = lay(tmp_path / "model", "a config alone", "adapter_model.safetensors")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match="holds an adapter, not a model"):
        open_source(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {f"base_model.model.{name}": tensor for name, tensor in TENSORS.items()},
        TENSORS | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(4, 4)},
        {n.replace("q_proj.", "q_proj.base_layer."): t for n, t in TENSORS.items()},
    ],
    ids=["peft's prefix", "an adapter within", "base layers"],
)
def test_a_state_that_was_not_merged_is_refused(tmp_path, tensors):
    with pytest.raises(BadInput, match=r"an adapter that is not merged.*merge_and_unload"):
        check_coverage(open_source(write_checkpoint(tmp_path, TINY, tensors)))
