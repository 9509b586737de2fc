"""The weights file: aligned, a valid safetensors file, and exactly what the model holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llx.errors import BadInput
from llx.exporter import weights
from llx.exporter.weights import ALIGN_BYTES, PAGE_BYTES, layout_of, write_weights
from llx.llama.spec import LlamaSpec
from llx.precision import PRECISIONS
from llx.progress import silent
from tests.checkpoints import BIASED, MHA, TINY, MemorySource, random_llama, random_tensors

SPECS = st.builds(
    lambda heads, group, half, dim, ffn, vocab, tied: LlamaSpec(
        layers=1,
        dim=dim,
        heads=heads * group,
        kv_heads=heads,
        head_dim=2 * half,
        ffn_dim=ffn,
        vocab=vocab,
        context=7,
        tied=tied,
    ),
    *(st.integers(1, 9) for _ in range(6)),
    st.booleans(),
)


@given(spec=SPECS, precision=st.sampled_from(list(PRECISIONS)))
def test_tensors_are_aligned_and_do_not_overlap(spec, precision):
    layout = layout_of(spec, PRECISIONS[precision])
    assert len(layout.header) % PAGE_BYTES == 0
    end = len(layout.header)
    for place in layout.places.values():
        assert place.offset % ALIGN_BYTES == 0
        assert 0 <= place.offset - end < ALIGN_BYTES
        end = place.offset + place.length
    assert end == layout.file_bytes


@given(spec=SPECS)
@settings(max_examples=20, deadline=None)
def test_the_safetensors_library_reads_what_was_streamed(spec, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    source = MemorySource(spec, random_tensors(spec))
    record, _ = write_weights(file, source, layout_of(spec, PRECISIONS["fp32"]), silent)
    assert record.bytes == file.stat().st_size
    model = random_llama(spec)
    state = {name: t for name, t in load_file(file).items() if not name.startswith("_pad")}
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_q_k_and_v_lie_side_by_side_transposed(tmp_path):
    tensors = random_tensors(TINY)
    file = tmp_path / "weights.safetensors"
    write_weights(file, MemorySource(TINY, tensors), layout_of(TINY, PRECISIONS["fp32"]), silent)
    prefix = "model.layers.1.self_attn."
    parts = [tensors[f"{prefix}{p}_proj.weight"] for p in "qkv"]
    torch.testing.assert_close(load_file(file)["layers.1.qkv.weight"], torch.cat(parts).T)


def test_a_tied_table_is_stored_once_and_biases_are_stored():
    assert "unembed.weight" not in layout_of(MHA, PRECISIONS["fp32"]).places
    assert "layers.0.qkv.bias" in layout_of(BIASED, PRECISIONS["fp32"]).places


def test_values_that_fp16_cannot_hold_are_counted(tmp_path):
    tensors = random_tensors(TINY)
    tensors["model.norm.weight"][:3] = torch.tensor([1e6, -1e5, 1e-9])
    source = MemorySource(TINY, tensors)
    _, casts = write_weights(tmp_path / "w", source, layout_of(TINY, PRECISIONS["fp16"]), silent)
    assert (casts.overflowed, casts.underflowed) == (2, 1)


def test_progress_ends_at_the_size_of_the_file(tmp_path):
    seen = []
    layout = layout_of(TINY, PRECISIONS["fp32"])
    write_weights(tmp_path / "w", MemorySource(TINY), layout, lambda *news: seen.append(news))
    assert seen[-1] == ("weights", layout.file_bytes, layout.file_bytes, "B")
    assert [news[1] for news in seen] == sorted(news[1] for news in seen)


def test_tensors_in_many_chunks_are_the_same_bytes_as_in_one(tmp_path, monkeypatch):
    spec = replace(TINY, dim=600, ffn_dim=520, vocab=700, context=9000)
    source = MemorySource(spec)
    files = []
    for chunk in (1, 1 << 30):
        monkeypatch.setattr(weights, "CHUNK_VALUES", chunk)
        file = tmp_path / f"{chunk}.safetensors"
        write_weights(file, source, layout_of(spec, PRECISIONS["fp16"]), silent)
        files.append(file.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-wo"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["embed_tokens", "layers.1.mlp.down_proj", "norm"])
def test_a_weight_that_is_not_finite_is_named(tmp_path, name, value, precision):
    tensors, name = random_tensors(TINY), f"model.{name}.weight"
    tensors[name].view(-1)[[3, 7]] = value
    layout = layout_of(TINY, PRECISIONS[precision])
    with pytest.raises(BadInput, match=rf"{name} holds 2 values that are NaN or infinite"):
        write_weights(tmp_path / "w", MemorySource(TINY, tensors), layout, silent)


@pytest.mark.parametrize("capacity", [1, 7, 96])
def test_rope_tables_hold_what_the_cache_does(tmp_path, capacity):
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_weights(whole, MemorySource(TINY), layout_of(TINY, PRECISIONS["fp32"]), silent)
    layout = layout_of(TINY, PRECISIONS["fp32"], positions=capacity)
    write_weights(part, MemorySource(TINY), layout, silent)
    for name in ("rope.cos", "rope.sin"):
        assert torch.equal(load_file(part)[name], load_file(whole)[name][:capacity])
