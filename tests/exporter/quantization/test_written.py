"""What a model writes to be calibrated on: it is the model's own, and the same after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llx.errors import BadInput
from llx.exporter.load import llama_from_source
from llx.exporter.quantization import written
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.run import quantize
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.quantization.written import written_windows
from llx.exporter.sources import open_source
from llx.llama.model import empty_cache
from llx.precision import PRECISIONS
from tests.checkpoints import KIN_SPECS, SPECS, TINY, MemorySource, random_tensors, write_checkpoint

LENGTH = 12
INT8_WO = PRECISIONS["int8-wo"]


@pytest.fixture
def store(tmp_path):
    with CalibrationStore.opened(tmp_path / "store", "key") as opened:
        yield opened


def write(source, store, windows=3, window=LENGTH, first=1, known=300, **more):
    return written_windows(source, windows, window, first, known, store, **more)


@torch.inference_mode()
def greedy(source, length):
    """What the whole model writes if it always takes its likeliest token, without a cache."""
    model, tokens = llama_from_source(source), torch.ones((1, 1), dtype=torch.long)
    while tokens.shape[1] < length:
        positions = torch.arange(tokens.shape[1])[None]
        cache = empty_cache(source.spec, 1, length, torch.float32)
        logits, _ = model(tokens, positions, positions[:, -1:], cache)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens[0].tolist()


@pytest.mark.parametrize("spec", (SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def test_each_token_is_drawn_from_what_the_whole_model_says(store, monkeypatch, spec):
    source = MemorySource(spec)
    monkeypatch.setattr(torch, "multinomial", lambda p, _, generator: p.argmax(-1, keepdim=True))
    for row in write(source, store, known=spec.vocab):
        assert row.tolist() == greedy(source, LENGTH)


def test_samples_differ_and_are_the_same_again(store, tmp_path):
    found = write(MemorySource(TINY), store)
    assert found.shape == (3, LENGTH)
    assert len({bytes(row) for row in found}) == 3
    with CalibrationStore.opened(tmp_path / "other", "key") as other:
        np.testing.assert_array_equal(write(MemorySource(TINY), other), found)


def test_a_token_without_a_meaning_is_never_written(store):
    found = write(MemorySource(TINY), store, first=None, known=7)
    assert set(found.flatten()) <= set(range(7))
    assert len(set(found[:, 0])) > 1  # no beginning is known: each has one of its own


def test_a_window_is_made_of_short_samples(store, monkeypatch):
    monkeypatch.setattr(written, "SAMPLE", 5)
    found = write(MemorySource(TINY), store, windows=2, window=12)
    assert found.shape == (2, 12)
    assert (found[:, ::5] == 1).all()


def test_what_was_written_is_not_written_again(tmp_path, monkeypatch):
    source = MemorySource(TINY)
    monkeypatch.setattr(written, "HELD_BYTES", 1)  # a batch for each sample, and no weights held
    with CalibrationStore.opened(tmp_path / "whole", "key") as store:
        whole = write(source, store)
    assert len({bytes(row) for row in whole}) == 3

    def ended(what, done, total, unit):
        if done > LENGTH:
            raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with CalibrationStore.opened(folder, "key") as store, pytest.raises(KeyboardInterrupt):
        write(source, store, progress=ended)
    news = []
    with CalibrationStore.opened(folder, "key") as store:
        resumed = write(source, store, progress=lambda *one: news.append(one))
    np.testing.assert_array_equal(resumed, whole)
    assert news[0] == ("writing", LENGTH, 3 * LENGTH, "token")
    assert news[-1] == ("writing", 3 * LENGTH, 3 * LENGTH, "token")


@pytest.mark.parametrize(
    ("asked", "windows", "ours"), [(None, 6, 3), (None, 1, 0), ("self", 4, 4), ("docs", 4, 0)]
)
def test_a_record_says_what_the_model_wrote(tmp_path, store, asked, windows, ours):
    source = open_source(write_checkpoint(tmp_path / "tiny"), None)
    request = QuantizationRequest(windows=windows, text=asked)
    record = quantize(source, INT8_WO, request, store).record
    assert (record.windows, record.written) == (windows, ours)
    assert (record.corpus is None) == (record.corpus_sha256 is None) == (asked == "self")
    assert ("written by the model itself" in record.in_words) == (ours > 0)
    assert ("all written" in record.in_words) == (asked == "self")


def test_what_is_weighed_up_by_is_of_both_and_not_calibrated_on(tmp_path, store, monkeypatch):
    seen = []

    def calibrate(source, precision, tokens, *more, **named):
        seen.append(tokens)

    def weigh(folded, precision, judged, *more):
        seen.append(judged)
        return {}

    monkeypatch.setattr("llx.exporter.quantization.run.calibrate", calibrate)
    monkeypatch.setattr("llx.exporter.quantization.run.sensitivities", weigh)
    source = open_source(write_checkpoint(tmp_path / "tiny"), None)
    quantize(source, PRECISIONS["int8"], QuantizationRequest(windows=6), store)
    calibrated, judged = ({bytes(row) for row in tokens} for tokens in seen)
    assert (len(calibrated), len(judged)) == (6, 4)
    assert not calibrated & judged


def test_weights_are_held_or_read_again_to_the_same_end(tmp_path, monkeypatch, store):
    held = write(MemorySource(TINY), store)
    monkeypatch.setattr(written, "_fits", lambda spec: False)
    with CalibrationStore.opened(tmp_path / "other", "key") as other:
        np.testing.assert_array_equal(write(MemorySource(TINY), other), held)


def test_values_that_are_no_numbers_are_left_to_the_calibration_to_name(tmp_path, store):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.self_attn.v_proj.weight"][3] = 3e38
    found = write(MemorySource(TINY, tensors), store)
    assert (found < 300).all()
    with pytest.raises(BadInput, match=r"the input of layers\.1\.o is not finite"):
        calibrate(MemorySource(TINY, tensors), INT8_WO, found, store)
