"""Checkpoint formats: the same tensors from each, slices, coverage both ways, damage."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from tests.checkpoints import (
    MHA,
    TINY,
    MemorySource,
    random_tensors,
    write_bin,
    write_checkpoint,
    write_gguf,
    write_meta,
)

TENSORS = random_tensors(TINY)


WRITERS = {
    "single": write_checkpoint,
    "sharded": lambda folder: write_checkpoint(folder, shards=3),
    "gguf": lambda folder: write_gguf(folder / "tiny.gguf", TINY, TENSORS),
    "bin": lambda folder: write_bin(folder, TINY, TENSORS),
    "meta": lambda folder: write_meta(folder, TINY, TENSORS, shards=1),
    "meta, 2 shards": lambda folder: write_meta(folder, TINY, TENSORS, shards=2),
    "meta, embedding by rows": lambda folder: write_meta(folder, TINY, TENSORS, 2, 0),
}


@pytest.fixture(scope="module", params=WRITERS.values(), ids=WRITERS)
def source(request, tmp_path_factory):
    return open_source(request.param(tmp_path_factory.mktemp("source")), TINY)


def test_every_format_gives_the_same_spec_and_tensors(source):
    assert source.spec == TINY
    assert set(source.tensors) - {"rotary_emb.inv_freq"} == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert source.tensors[name].shape == tuple(tensor.shape)
        torch.testing.assert_close(source.read(name), tensor, rtol=0, atol=0)


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_rows_equals_slicing_the_whole(source, data):
    name = data.draw(st.sampled_from(sorted(TENSORS)))
    rows = len(TENSORS[name])
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows + 3))
    torch.testing.assert_close(source.read(name, slice(start, stop)), TENSORS[name][start:stop])


WIDE = replace(TINY, layers=1, dim=640, head_dim=64, ffn_dim=1024)  # wider than a step of columns


@pytest.mark.parametrize(
    "kind", ["safetensors", "bin", "meta", "f32", "f16", "bf16", "q8_0", "q4_1"]
)
def test_reading_blocks_equals_slicing_the_whole(tmp_path, kind):
    tensors = random_tensors(WIDE)
    if kind == "safetensors":
        source = open_source(write_checkpoint(tmp_path, WIDE, tensors))
    elif kind == "bin":
        source = open_source(write_bin(tmp_path, WIDE, tensors))
    elif kind == "meta":
        source = open_source(write_meta(tmp_path, WIDE, tensors, shards=2), WIDE)
    else:
        source = open_source(write_gguf(tmp_path / "wide.gguf", WIDE, tensors, kind))
    layer = "model.layers.0."
    for name in (
        f"{layer}self_attn.k_proj.weight",
        f"{layer}mlp.down_proj.weight",
        "lm_head.weight",
    ):
        whole = source.read(name)
        tolerance = {"q8_0": 5e-3, "q4_1": 0.08, "bf16": 5e-3, "f16": 1e-3}.get(kind, 0)
        torch.testing.assert_close(whole.float(), tensors[name], rtol=0, atol=tolerance)
        for rows in (slice(None), slice(3, 11)):
            for columns in (slice(0, 256), slice(256, 512), slice(512, whole.shape[1])):
                block = source.read(name, rows, columns)
                torch.testing.assert_close(block, whole[rows, columns], rtol=0, atol=0)


def test_a_complete_checkpoint_is_covered(source):
    assert set(check_coverage(source)) <= {"rotary_emb.inv_freq"}


def test_what_may_be_left_out_is_named_with_its_reason():
    tensors = random_tensors(MHA)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    ignored = check_coverage(MemorySource(MHA, tensors))
    assert set(ignored) == {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert "tied" in ignored["lm_head.weight"]


def test_a_missing_tensor_is_named():
    tensors = {n: t for n, t in TENSORS.items() if n != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(BadInput, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        check_coverage(MemorySource(TINY, tensors))


def test_an_extra_tensor_is_named():
    with pytest.raises(BadInput, match=r"score\.weight, which its model has no place for"):
        check_coverage(MemorySource(TINY, TENSORS | {"score.weight": torch.ones(2)}))


def test_an_untied_model_without_a_head_is_refused():
    tensors = {name: t for name, t in TENSORS.items() if name != "lm_head.weight"}
    with pytest.raises(BadInput, match=r"lacks lm_head\.weight"):
        check_coverage(MemorySource(TINY, tensors))


def test_a_wrong_shape_is_named_with_both_shapes():
    spec = replace(TINY, kv_heads=3)
    with pytest.raises(BadInput, match=r"k_proj\.weight is \[20, 36\] where .* \[30, 36\]"):
        check_coverage(MemorySource(spec, TENSORS))


def test_bfloat16_checkpoints_are_read(tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in TENSORS.items()}
    source = open_source(write_checkpoint(tmp_path, tensors=halves))
    assert source.read("model.norm.weight").dtype == torch.bfloat16


def test_tokenizer_template_and_ends_come_with_the_checkpoint(tmp_path):
    text = open_source(write_checkpoint(tmp_path)).text()
    assert text is not None
    assert text.record.eos_ids == (0,)
    assert text.record.eos_token == "<end>"
    assert text.chat_template is not None


@pytest.mark.parametrize("keep", [0, 4, 40, 4000, -1])
def test_a_truncated_safetensors_file_is_refused(tmp_path, keep):
    file = write_checkpoint(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        check_coverage(open_source(tmp_path))


@pytest.mark.parametrize("keep", [0, 3, 20, 400, 20000, -1])
def test_a_truncated_gguf_file_is_refused(tmp_path, keep):
    file = write_gguf(tmp_path / "tiny.gguf", TINY, TENSORS)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInput, match="not a whole GGUF file"):
        open_source(file)


def test_a_gguf_of_another_architecture_is_refused(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match="architecture is falcon"):
        open_source(tmp_path / "other.gguf")


def test_a_missing_shard_is_named(tmp_path):
    write_checkpoint(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BadInput, match=r"model-00002-of-00003\.safetensors is missing"):
        check_coverage(open_source(tmp_path))


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    write_checkpoint(tmp_path / "in", shards=2)
    index = tmp_path / "in" / "model.safetensors.index.json"
    save_file(
        load_file(tmp_path / "in" / "model-00001-of-00002.safetensors"), tmp_path / "x.safetensors"
    )
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../x.safetensors"}}))
    with pytest.raises(BadInput, match="outside its folder"):
        check_coverage(open_source(tmp_path / "in"))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no checkpoint"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llama"', "\xff"])
def test_a_damaged_config_is_refused(tmp_path, text):
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"config\.json"):
        open_source(tmp_path)
