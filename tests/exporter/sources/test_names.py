"""Tensors by other names, too many or too few of them: read as transformers does, or explained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import BIASED, MHA, TINY, MemorySource, random_tensors, write_checkpoint

TENSORS = random_tensors(TINY)
RENAMED = {
    "module.": lambda name: f"module.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "_orig_mod.module.": lambda name: f"_orig_mod.module.{name}",
    "none": lambda name: name.removeprefix("model."),
    "model.": lambda name: f"model.{name}",
    "model. but for the head": lambda n: n if n.startswith("lm_head") else f"model.{n}",
    "model.model.": lambda name: f"model.model.{name}",
    "language_model.": lambda name: f"language_model.{name}",
    "transformer.": lambda name: name.replace("model.", "transformer."),
    "_fsdp_wrapped_module.": lambda n: n.replace("model.la", "model._fsdp_wrapped_module.la"),
}


def stored(folder, tensors, kind="safetensors", spec=TINY):
    """A folder with these tensors in one file of a kind."""
    write_checkpoint(folder, spec, tensors, tokenizer=False)
    if kind == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def refusal(folder):
    with pytest.raises(BadInput) as caught:
        check_coverage(open_source(folder))
    return str(caught.value)


def transformers_reads(folder, truth):
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    state = model.state_dict()
    return not info["missing_keys"] and all(torch.equal(state[name], truth[name]) for name in truth)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", RENAMED)
def test_names_that_transformers_understands_are_understood_and_others_explained(
    tmp_path, prefix, kind
):
    folder = stored(tmp_path, {RENAMED[prefix](n): t for n, t in TENSORS.items()}, kind)
    if not transformers_reads(folder, TENSORS):
        assert repr(prefix) in refusal(folder)
        return
    source = open_source(folder)
    check_coverage(source)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())


def test_two_names_that_mean_one_tensor_are_both_named(tmp_path):
    twice = TENSORS | {"norm.weight": TENSORS["model.norm.weight"] + 1}
    said = refusal(stored(tmp_path, twice))
    assert "norm.weight" in said
    assert "model.norm.weight" in said
    stored(tmp_path, TENSORS | {"norm.weight": TENSORS["model.norm.weight"].clone()})
    ignored = check_coverage(open_source(tmp_path))
    assert list(ignored.values()) == ["equal to model.norm.weight"]


LAYER = "model.layers.0."
BESIDE = {
    f"{LAYER}block_sparse_moe.experts.0.w1.weight": "mixture of experts",
    f"{LAYER}mlp.experts.3.gate_proj.weight": "mixture of experts",
    f"{LAYER}self_attn.q_proj.qweight": "quantized",
    f"{LAYER}self_attn.q_proj.weight_scale_inv": "quantized",
    f"{LAYER}mlp.up_proj.weight.absmax": "quantized",
    f"{LAYER}self_attn.q_proj.lora_A.weight": "adapter",
    f"base_model.model.{LAYER}self_attn.q_proj.base_layer.weight": "adapter",
    f"{LAYER}self_attn.q_norm.weight": "norms that a LLaMA does not have",
    f"{LAYER}input_layernorm.bias": "norms that a LLaMA does not have",
    "score.weight": "classifies",
    "v_head.summary.weight": "scores",
    "vision_tower.patch.weight": "sees",
    "model.mm_projector.0.weight": "sees",
    "model.layers.2.mlp.up_proj.weight": "its configuration has 2 layers",
    f"{LAYER}self_attn.q_proj.bias": "attention_bias is false",
    f"{LAYER}mlp.down_proj.bias": "mlp_bias is false",
    "strange.weight": "no place for",
}


@pytest.mark.parametrize(("name", "meaning"), BESIDE.items(), ids=list(BESIDE))
def test_what_a_llama_has_no_place_for_is_called_what_it_is(name, meaning):
    with pytest.raises(BadInput) as caught:
        check_coverage(MemorySource(TINY, TENSORS | {name: torch.ones(2)}))
    assert meaning in str(caught.value)
    assert name in str(caught.value)
    assert "download" not in caught.value.remedy


@pytest.mark.parametrize("flag", ["attention_bias", "mlp_bias"])
def test_biases_without_their_flag_name_the_flag_and_what_turns_it_on(flag):
    tensors = random_tensors(replace(TINY, **{flag: True}))
    with pytest.raises(BadInput, match=f"{flag} is false: use .*where {flag} is true"):
        check_coverage(MemorySource(TINY, tensors))
    check_coverage(MemorySource(replace(TINY, **{flag: True}), tensors))
    with pytest.raises(BadInput, match=f"which {flag} asks for"):
        check_coverage(MemorySource(replace(TINY, **{flag: True}), TENSORS))


def test_some_biases_of_a_layer_are_another_architecture():
    names = [f"{LAYER}self_attn.{one}_proj.bias" for one in "qkv"]
    biases = {n: t for n, t in random_tensors(BIASED).items() if n in names}
    with pytest.raises(BadInput, match="of 4 biases a layer would have 3"):
        check_coverage(MemorySource(TINY, TENSORS | biases))


def test_fewer_layers_than_the_configuration_says_are_counted():
    with pytest.raises(BadInput, match="has 2 layers, and its configuration 3"):
        check_coverage(MemorySource(replace(TINY, layers=3), TENSORS))


def test_a_padded_vocabulary_names_the_size_that_it_has():
    padded = random_tensors(replace(TINY, vocab=320))
    with pytest.raises(BadInput, match="its vocab_size is 320"):
        check_coverage(MemorySource(TINY, padded))


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5),
    "model.rotary_emb.inv_freq": torch.ones(5, dtype=torch.int64),
    "model.layers.1.self_attn.rotary_emb.cos_cached": torch.ones(3, 5),
    "model.embed_positions.position_ids": torch.arange(3),
    "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_buffers_of_older_releases_are_left_out_whatever_their_dtype(tmp_path, kind):
    folder = stored(tmp_path, TENSORS | BUFFERS, kind)
    ignored = check_coverage(open_source(folder))
    assert ignored == dict.fromkeys(BUFFERS, "a buffer that is computed from the configuration")


def test_what_is_no_tensor_beside_weights_is_left_out(tmp_path):
    folder = stored(tmp_path, TENSORS)
    (folder / "model.safetensors").unlink()
    torch.save(TENSORS | {"_step": 5}, folder / "pytorch_model.bin")
    assert check_coverage(open_source(folder)) == {"_step": "no tensor: Python's int"}


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_that_are_no_floats_are_named_with_their_dtype(tmp_path, kind, dtype):
    name = "model.layers.0.mlp.up_proj.weight"
    said = refusal(stored(tmp_path, TENSORS | {name: TENSORS[name].to(dtype)}, kind))
    assert name in said
    assert "quantized" in said


def test_norms_may_be_wider_than_the_rest(tmp_path):
    halves = {n: t if "norm" in n else t.half() for n, t in TENSORS.items()}
    source = open_source(stored(tmp_path, halves))
    check_coverage(source)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in halves.items())


def test_an_empty_shard_is_no_obstacle_and_no_tensors_at_all_are_named(tmp_path):
    folder = write_checkpoint(tmp_path, TINY, TENSORS, 2, tokenizer=False)
    (folder / "model.safetensors.index.json").unlink()
    for n in (1, 2):
        file = folder / f"model-0000{n}-of-00002.safetensors"
        file.rename(folder / f"model-0000{n}-of-00003.safetensors")
    save_file({}, folder / "model-00003-of-00003.safetensors")
    check_coverage(open_source(folder))
    save_file({}, folder / "model.safetensors")
    assert "holds no tensors" in refusal(folder)


TABLES = ("equal", "different", "another shape", "embedding alone", "head alone", "neither")


def tables(kind):
    tensors = random_tensors(replace(TINY, tied=False))
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    if kind == "equal":
        tensors[head] = tensors[embed].clone()
    if kind == "another shape":
        tensors[head] = tensors[head][:-1].clone()
    if kind in ("embedding alone", "neither"):
        del tensors[head]
    if kind in ("head alone", "neither"):
        del tensors[embed]
    return tensors


@pytest.mark.parametrize("file", ["safetensors", "bin"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", TABLES)
def test_tied_tables_are_those_that_transformers_uses(tmp_path, kind, tied, file):
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    folder = stored(tmp_path, tables(kind), file, replace(TINY, tied=tied))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except RuntimeError:  # of another shape
        model, info = None, {"mismatched_keys": True}
    if any(info.values()) or kind == "neither":
        refusal(folder)
        return
    source = open_source(folder)
    check_coverage(source)
    embedding = source.read("model.embed_tokens.weight")
    head = embedding if source.spec.tied else source.read("lm_head.weight")
    assert torch.equal(embedding, model.get_input_embeddings().weight)
    assert torch.equal(head, model.get_output_embeddings().weight)
    told = [line for line in source.warnings if "ties the tables" in line]
    assert bool(told) == (tied and kind == "different")


def test_a_head_that_shares_the_embeddings_values_in_a_file_is_tied(tmp_path):
    tensors = random_tensors(MHA)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folder = write_checkpoint(tmp_path, MHA, random_tensors(MHA), tokenizer=False)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    source = open_source(folder)
    assert source.spec.tied
    assert check_coverage(source) == {"lm_head.weight": "tied: equal to model.embed_tokens.weight"}


def test_tables_are_compared_in_blocks(monkeypatch, tmp_path):
    """The last value counts as the first does, whatever the size of a block."""
    tensors = random_tensors(MHA)
    head = tensors["model.embed_tokens.weight"].clone()
    for values in (1, 36 * 7, 1 << 20):
        monkeypatch.setattr("llx.exporter.sources.ties.BLOCK_VALUES", values)
        for at in (None, (0, 0), (299, 35)):
            other = head.clone()
            if at:
                other[at] += 1
            folder = stored(
                tmp_path / f"{values}{at}", tensors | {"lm_head.weight": other}, spec=MHA
            )
            assert open_source(folder).spec.tied == (at is None)
