"""Calibration: the maxima of the whole model, found one block at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llx.corpus import calibration_text
from llx.errors import BadInput
from llx.exporter import calibrate as calibrating
from llx.exporter import load
from llx.exporter.calibrate import calibrate, input_maxima
from llx.exporter.load import llama_from_source
from llx.exporter.sources.generated import RandomSource
from llx.llama.model import Linear, empty_cache
from llx.llama.streamed import run_blocks
from tests.checkpoints import (
    SPECS,
    TINY,
    MemorySource,
    byte_tokenizer,
    random_llama,
    random_tensors,
    write_checkpoint,
)


def random_tokens(spec, windows=3, length=20):
    return np.random.default_rng(1).integers(0, spec.vocab, (windows, length))


@torch.inference_mode()
def run_whole(model, tokens):
    """Logits and the last activations of every window, from the model as a whole."""
    hidden = []
    hook = model.layers[-1].register_forward_hook(lambda _, __, out: hidden.append(out[0]))
    positions = torch.arange(tokens.shape[1])[None]
    for row in torch.from_numpy(tokens):
        cache = empty_cache(model.spec, 1, len(row), torch.float32)
        model(row[None], positions, positions, cache)
    hook.remove()
    return torch.cat(hidden)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_blocks_one_by_one_give_what_the_whole_model_gives(spec):
    source, tokens = MemorySource(spec), random_tokens(spec)
    hidden = load.embedded(source, torch.from_numpy(tokens))
    found = run_blocks(spec, hidden, lambda layer: load.block_state(source, layer))
    torch.testing.assert_close(found, run_whole(random_llama(spec), tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_maxima_are_those_that_hooks_on_the_whole_model_see(spec):
    source, tokens = MemorySource(spec), random_tokens(spec)
    model = llama_from_source(source)
    seen = {}

    def record(name):
        def hook(_, inputs):
            seen[name] = max(seen.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(record(name))
    run_whole(model, tokens)
    assert len(seen) == 4 * spec.layers
    assert input_maxima(source, tokens) == pytest.approx(seen, rel=1e-5)


def test_the_embedding_passes_in_blocks(monkeypatch):
    tokens = torch.from_numpy(random_tokens(TINY))
    whole = load.embedded(MemorySource(TINY), tokens)
    monkeypatch.setattr("llx.exporter.weights.CHUNK_VALUES", 1)
    torch.testing.assert_close(load.embedded(MemorySource(TINY), tokens), whole, rtol=0, atol=0)
    table = MemorySource(TINY).read("model.embed_tokens.weight")
    torch.testing.assert_close(whole, table[tokens], rtol=0, atol=0)


def test_blocks_are_let_go_of_one_by_one():
    """At no time are two layers' weights alive, however many there are."""
    import weakref

    spec = replace(TINY, layers=6)
    source, blocks, most = MemorySource(spec), [], 0

    def watch(layer, block):
        nonlocal most
        blocks.append(weakref.ref(block.down.weight))
        most = max(most, sum(ref() is not None for ref in blocks))

    hidden = load.embedded(source, torch.from_numpy(random_tokens(spec)))
    run_blocks(spec, hidden, lambda layer: load.block_state(source, layer), watch)
    assert (len(blocks), most) == (6, 1)


def test_an_outlier_is_kept_as_it_is():
    tensors = random_tensors(TINY)
    tensors["model.layers.1.post_attention_layernorm.weight"][5] = 1e4
    for name in ("gate", "up"):
        tensors[f"model.layers.1.mlp.{name}_proj.weight"][:, 5] = 0
    found = input_maxima(MemorySource(TINY, tensors), random_tokens(TINY))
    assert 1e4 < found["layers.1.gate_up"] < FP16


FP16 = 65504


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_names_the_layer(value):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.self_attn.v_proj.weight"][3, 4] = value
    with pytest.raises(BadInput, match=r"the input of layers\.1\.o is not finite"):
        input_maxima(MemorySource(TINY, tensors), random_tokens(TINY))


def test_an_activation_beyond_fp16_names_the_layer():
    tensors = random_tensors(TINY)
    tensors["model.layers.1.post_attention_layernorm.weight"][5] = 1e6
    with pytest.raises(BadInput, match=r"the input of layers\.1\.gate_up reaches .*ends at 65504"):
        input_maxima(MemorySource(TINY, tensors), random_tokens(TINY))


def test_progress_is_told_by_window_and_layer():
    news = []
    input_maxima(MemorySource(TINY), random_tokens(TINY), lambda *what: news.append(what))
    assert news[-1] == ("calibration", 6, 6, "window")
    assert [done for _, done, _, _ in news] == list(range(7))


def test_text_is_the_calibration_text_and_the_record_says_so(tmp_path):
    from llx.exporter.sources import open_source

    source = open_source(write_checkpoint(tmp_path), None)
    tokens, corpus = calibrating._windows(source, 4)
    assert tokens.shape == (4, TINY.context)
    text = calibration_text()
    assert corpus == text
    assert byte_tokenizer(300).decode(tokens[1].tolist()) in text.text
    record = calibrate(source, 4).record
    assert (record.corpus, record.corpus_sha256) == (text.name, text.sha256)
    assert (record.method, record.windows, record.window) == ("max", 4, TINY.context)


def test_random_weights_are_calibrated_on_random_tokens():
    calibration = calibrate(RandomSource(TINY, 0), 2)
    assert calibration.record.corpus == "random tokens"
    assert calibration.record.corpus_sha256 is None
    assert "random tokens" in calibration.record.in_words
    assert len(calibration.maxima) == 4 * TINY.layers


def test_a_checkpoint_without_a_tokenizer_says_what_to_do():
    with pytest.raises(BadInput, match=r"no tokenizer .*put its tokenizer\.json beside"):
        calibrate(MemorySource(TINY), 2)
