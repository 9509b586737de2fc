"""Calibration: what reaches each layer, found one block at a time, and kept against a kill."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from llx.corpus import calibration_text
from llx.errors import BadInput
from llx.exporter import load
from llx.exporter.load import llama_from_source
from llx.exporter.quantization import calibrate as calibrating
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.observe import observe
from llx.exporter.quantization.run import JUDGED_WINDOWS, _texts, quantize
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.sources import open_source
from llx.exporter.sources.generated import RandomSource
from llx.llama.model import Linear, empty_cache
from llx.llama.streamed import run_blocks
from llx.precision import PRECISIONS
from llx.progress import silent
from tests.checkpoints import (
    SPECS,
    TINY,
    MemorySource,
    byte_tokenizer,
    dice,
    random_llama,
    random_tensors,
    write_checkpoint,
)

INT8 = PRECISIONS["int8"]
QUANTIZED = [PRECISIONS[name] for name in ("int8", "int8-wo", "int4", "fp8")]


def random_tokens(spec, windows=3, length=20):
    return dice(1).integers(0, spec.vocab, (windows, length))


def observed(source, tokens, **more):
    found = {}
    hidden = load.embedded(source, torch.from_numpy(tokens))
    observe(source, hidden, lambda layer, statistics: found.update(statistics), **more)
    return found


@pytest.fixture
def store(tmp_path):
    with CalibrationStore.opened(tmp_path / "store", "key") as opened:
        yield opened


@torch.inference_mode()
def run_whole(model, tokens):
    """The last activations of every window, from the model as a whole."""
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
def test_statistics_are_those_that_hooks_on_the_whole_model_see(spec):
    source, tokens = MemorySource(spec), random_tokens(spec)
    model = llama_from_source(source)
    seen = {}

    def record(name):
        def hook(_, inputs):
            seen.setdefault(name, []).append(inputs[0].flatten(0, -2).clone())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(record(name))
    run_whole(model, tokens)
    found = observed(source, tokens)
    assert len(seen) == 4 * spec.layers
    assert found.keys() == seen.keys()
    for name, parts in seen.items():
        rows = torch.cat(parts)
        torch.testing.assert_close(found[name].maxima, rows.abs().amax(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name].gram, rows.T @ rows, rtol=1e-4, atol=1e-3)
        assert found[name].count == tokens.size


def test_the_embedding_passes_in_blocks(monkeypatch):
    tokens = torch.from_numpy(random_tokens(TINY))
    whole = load.embedded(MemorySource(TINY), tokens)
    monkeypatch.setattr("llx.exporter.weights.CHUNK_VALUES", 1)
    torch.testing.assert_close(load.embedded(MemorySource(TINY), tokens), whole, rtol=0, atol=0)
    table = MemorySource(TINY).read("model.embed_tokens.weight")
    torch.testing.assert_close(whole, table[tokens], rtol=0, atol=0)


def test_blocks_are_let_go_of_one_by_one():
    """At no time are two layers' weights alive, however many there are."""
    spec = replace(TINY, layers=6)
    source, blocks, most, left = MemorySource(spec), [], 0, []

    def alive():
        return sum(ref() is not None for ref in blocks)

    def watch(layer, block):
        nonlocal most
        blocks.append(weakref.ref(block.down.weight))
        most = max(most, alive())

    hidden = load.embedded(source, torch.from_numpy(random_tokens(spec)))
    run_blocks(
        spec,
        hidden,
        lambda layer: load.block_state(source, layer),
        watch,
        after=lambda layer: left.append(alive()),
    )
    assert (len(blocks), most) == (6, 1)
    assert left == [0] * 6  # what works on a layer's statistics has its weights' room as well


@pytest.mark.parametrize("precision", QUANTIZED, ids=lambda precision: precision.name)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_module_is_kept_in_the_form_that_the_weights_file_has(store, spec, precision):
    calibrate(MemorySource(spec), precision, random_tokens(spec), store)
    for weight in (w for w in load.weights_of(spec) if w.kind == "projection"):
        kept = store.read(weight.module)
        assert tuple(kept.quantized.values.shape) == weight.shape
        assert kept.quantized.scales.dtype == torch.float16
        assert (kept.quantized.scales > 0).all()
        assert (kept.fold is None) == (precision.linear == "int8-wo")
    assert len(store.input_maxima()) == 4 * spec.layers


def test_int8_layers_have_one_largest_input_and_an_outlier_is_survived(store):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.post_attention_layernorm.weight"][5] = 1e4
    for name in ("gate", "up"):
        tensors[f"model.layers.1.mlp.{name}_proj.weight"][:, 5] *= 1e-4
    source = MemorySource(TINY, tensors)
    assert observed(source, random_tokens(TINY))["layers.1.gate_up"].maxima[5] > 1e4
    calibrate(source, INT8, random_tokens(TINY), store)
    assert list(store.input_maxima().values()) == pytest.approx([8.0] * 8, rel=0.01)


@pytest.mark.parametrize("precision", QUANTIZED, ids=lambda precision: precision.name)
def test_an_activation_that_is_not_finite_names_the_layer(store, precision):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.self_attn.v_proj.weight"][3] = 3e38
    with pytest.raises(BadInput, match=r"the input of layers\.1\.o is not finite"):
        calibrate(MemorySource(TINY, tensors), precision, random_tokens(TINY), store)


def test_an_activation_beyond_fp16_that_nothing_folds_names_the_layer(store):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.post_attention_layernorm.weight"][5] = 1e6
    with pytest.raises(BadInput, match=r"the input of layers\.1\.gate_up reaches .*ends at 65504"):
        calibrate(MemorySource(TINY, tensors), PRECISIONS["int8-wo"], random_tokens(TINY), store)


@pytest.mark.parametrize("precision", QUANTIZED, ids=lambda precision: precision.name)
def test_an_input_channel_that_is_always_zero_is_survived(store, precision):
    tensors = random_tensors(TINY)
    tensors["model.layers.0.input_layernorm.weight"][7] = 0
    tensors["model.layers.1.mlp.up_proj.weight"][11] = 0
    tensors["model.layers.1.self_attn.v_proj.weight"].zero_()
    calibrate(MemorySource(TINY, tensors), precision, random_tokens(TINY), store)
    for module in store.input_maxima():
        kept = store.read(module)
        assert torch.isfinite(kept.quantized.scales).all()
        assert kept.fold is None or torch.isfinite(kept.fold).all()


def test_after_a_kill_it_goes_on_with_the_next_layer(tmp_path, monkeypatch):
    spec = replace(TINY, layers=5)
    source, tokens = MemorySource(spec), random_tokens(spec)
    with CalibrationStore.opened(tmp_path / "whole", "key") as store:
        calibrate(source, INT8, tokens, store)
        wanted = {module: store.read(module) for module in store.input_maxima()}
    real, done = calibrating._calibrate_layer, []

    def killed(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(next(iter(arguments[2])))
        real(*arguments)

    with CalibrationStore.opened(tmp_path / "cut", "key") as store:
        monkeypatch.setattr(calibrating, "_calibrate_layer", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(source, INT8, tokens, store)
    monkeypatch.setattr(calibrating, "_calibrate_layer", real)
    news = []
    with CalibrationStore.opened(tmp_path / "cut", "key") as store:
        calibrate(source, INT8, tokens, store, lambda *what: news.append(what))
        assert news[0] == ("calibration", 9, 15, "window")
        for module, kept in wanted.items():
            found = store.read(module)
            assert torch.equal(found.quantized.values, kept.quantized.values)
            assert torch.equal(found.quantized.scales, kept.quantized.scales)
            assert found.input_most == kept.input_most


def test_what_another_request_left_is_not_gone_on_with(tmp_path):
    with CalibrationStore.opened(tmp_path / "store", "one") as store:
        calibrate(MemorySource(TINY), INT8, random_tokens(TINY), store)
        assert store.resume()[0] == TINY.layers
    with CalibrationStore.opened(tmp_path / "store", "other") as store:
        assert store.resume() == (0, None)
        assert not store.input_maxima()


def test_two_exports_do_not_calibrate_in_one_folder(tmp_path):
    with (
        CalibrationStore.opened(tmp_path / "store", "key"),
        pytest.raises(BadInput, match="another export is calibrating"),
        CalibrationStore.opened(tmp_path / "store", "key"),
    ):
        pass


def test_progress_is_told_by_window_and_layer(store):
    news = []
    calibrate(MemorySource(TINY), INT8, random_tokens(TINY), store, lambda *what: news.append(what))
    assert news[-1] == ("calibration", 6, 6, "window")
    assert [done for _, done, _, _ in news] == list(range(7))


def test_text_is_the_calibration_text_and_windows_to_weigh_up_by_are_others(tmp_path, store):
    source = open_source(write_checkpoint(tmp_path), None)
    texts = _texts(source, 12, TINY.context, "docs", store, silent)
    assert texts.calibration.shape == (12, TINY.context)
    assert texts.judged.shape == (JUDGED_WINDOWS, TINY.context)
    assert texts.corpus == calibration_text()
    words = [byte_tokenizer(300).decode(row.tolist()) for row in texts.calibration]
    assert all(text in texts.corpus.text for text in words)
    assert not {bytes(row) for row in texts.calibration} & {bytes(row) for row in texts.judged}


def test_the_users_own_text_is_taken_and_named(tmp_path, store):
    text = tmp_path / "mine.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    source = open_source(write_checkpoint(tmp_path / "tiny"), None)
    asked = QuantizationRequest(windows=3, text=text)
    record = quantize(source, PRECISIONS["int8-wo"], asked, store).record
    assert (record.corpus, record.method, record.windows) == ("mine.txt", "gptq", 3)
    assert len(record.corpus_sha256) == 64
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"mine\.txt is no text"):
        quantize(source, INT8, asked, store)


@pytest.mark.parametrize("precision", QUANTIZED, ids=lambda precision: precision.name)
def test_random_weights_are_rounded_to_nearest_and_calibrated_on_random_tokens(store, precision):
    found = quantize(RandomSource(TINY, 0), precision, QuantizationRequest(), store)
    assert found.record.corpus_sha256 is None
    assert not found.record.dense
    if precision.rounds_inputs:
        assert (found.record.method, found.record.windows) == ("plain", 1)
        assert found.record.in_words.startswith("rounded to nearest, on random tokens")
        assert len(found.input_maxima) == 4 * TINY.layers
    else:
        assert (found.record.method, found.record.windows) == ("nearest", 0)
        assert found.ready("layers.0.down") is None


def test_a_checkpoint_without_a_tokenizer_says_what_to_do(store):
    with pytest.raises(BadInput, match=r"no tokenizer .*put its tokenizer\.json beside"):
        quantize(MemorySource(TINY), INT8, QuantizationRequest(), store)
