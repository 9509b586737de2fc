"""The int8 weights file against a plain formula in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llx.errors import BadInput
from llx.exporter import weights
from llx.exporter.quantize import scales_from
from llx.exporter.weights import layout_of, write_weights
from llx.llama.weights import weights_of
from llx.precision import PRECISIONS
from llx.progress import silent
from tests.checkpoints import BIASED, TINY, MemorySource, random_tensors

INT8 = PRECISIONS["int8"]


def maxima_of(spec, most=2.0):
    return {w.module: most for w in weights_of(spec) if w.kind == "projection"}


def rounded_up(exact):
    """In float16, and never below: the largest value is not clipped."""
    near = exact.astype(np.float16)
    return np.where(near < exact, np.nextafter(near, np.float16(np.inf)), near)


def written(path, spec=TINY, tensors=None, maxima=None):
    layout, source = layout_of(spec, INT8), MemorySource(spec, tensors)
    write_weights(path, source, layout, silent, maxima or maxima_of(spec))
    return load_file(path)


@pytest.mark.parametrize("spec", [TINY, BIASED], ids=["plain", "biased"])
def test_projections_are_int8_with_a_scale_per_output_channel(tmp_path, spec):
    tensors = random_tensors(spec)
    found = written(tmp_path / "w", spec, tensors)
    for weight in weights_of(spec):
        parts = np.concatenate([tensors[part.name].numpy() for part in weight.parts])
        stored = found[weight.name]
        if weight.kind != "projection":
            np.testing.assert_array_equal(stored, parts.astype(np.float16))
            continue
        scale = rounded_up(np.abs(parts).max(1) / np.float32(127))
        steps = np.rint(parts / scale.astype(np.float32)[:, None]).clip(-127, 127)
        assert stored.dtype == np.int8
        np.testing.assert_array_equal(found[f"{weight.name}_scale"], scale)
        np.testing.assert_array_equal(stored, steps.T)
        assert np.abs(stored).max(0).min() >= 126  # every channel uses its whole range
        input_scale = found[f"{weight.module}.input_scale"]
        assert (input_scale.shape, input_scale.dtype) == ((), np.float16)
        assert input_scale == rounded_up(np.float32(2) / np.float32(127))


def test_projections_in_many_blocks_are_the_same_bytes_as_in_one(tmp_path, monkeypatch):
    spec = replace(TINY, dim=600, ffn_dim=520)
    files = []
    for chunk in (1, 1 << 30):
        monkeypatch.setattr(weights, "CHUNK_VALUES", chunk)
        written(tmp_path / str(chunk), spec)
        files.append((tmp_path / str(chunk)).read_bytes())
    assert files[0] == files[1]


def test_a_channel_of_zeros_has_a_positive_scale(tmp_path):
    tensors = random_tensors(TINY)
    tensors["model.layers.0.mlp.down_proj.weight"][7] = 0
    found = written(tmp_path / "w", TINY, tensors)
    scale = found["layers.0.down.weight_scale"]
    assert scale[7] == np.finfo(np.float16).smallest_normal
    assert (scale > 0).all()
    assert not found["layers.0.down.weight"][:, 7].any()


def test_an_input_of_zeros_has_a_positive_scale(tmp_path):
    found = written(tmp_path / "w", maxima=maxima_of(TINY, 0.0))
    assert found["layers.0.down.input_scale"] == np.finfo(np.float16).smallest_normal


@pytest.mark.parametrize("most", [1e-12, 1e-6, 1e-5, 1e-3, 1.0, 1e4, 8e6])
def test_scales_are_positive_and_hold_their_maximum(most):
    scale = float(scales_from(torch.tensor([most]), torch.float16, "w")[0])
    assert 0 < scale < np.inf
    assert 127 * scale >= most * (1 - 1e-6)


@pytest.mark.parametrize("most", [1e7, float("nan"), float("inf")])
def test_a_maximum_without_a_scale_names_the_weight(most):
    with pytest.raises(BadInput, match=r"layers\.3\.o\.weight reaches .*has no scale"):
        scales_from(torch.tensor([1.0, most]), torch.float16, "layers.3.o.weight")


def test_one_outlier_coarsens_its_own_channel_alone(tmp_path):
    tensors = random_tensors(TINY)
    plain = written(tmp_path / "a", TINY, tensors)
    tensors = random_tensors(TINY)
    tensors["model.layers.0.self_attn.o_proj.weight"][3, 11] = 1e4
    found = written(tmp_path / "b", TINY, tensors)
    name = "layers.0.o.weight"
    assert found[name][11, 3] == 127
    assert np.count_nonzero(found[name][:, 3]) == 1
    np.testing.assert_array_equal(
        np.delete(found[name], 3, axis=1), np.delete(plain[name], 3, axis=1)
    )
