"""The weights file in few bits against plain formulas in numpy, and int4 against ONNX's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from llx.errors import BadInput
from llx.exporter import weights
from llx.exporter.quantize import Quantized, int4_nearest, packed, scales_from
from llx.exporter.weights import layout_of, write_weights
from llx.llama.quantized import FP8, fp8, packed_shape, unpacked
from llx.llama.weights import linear_of, weights_of
from llx.precision import PRECISIONS, Precision
from llx.progress import silent
from tests.checkpoints import BIASED, TINY, MemorySource, random_tensors, torch_dice

INT8 = PRECISIONS["int8"]


EIGHT, FOUR, FLOAT8 = PRECISIONS["int8-wo"], PRECISIONS["int4"], PRECISIONS["fp8"]
E4M3 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)


def maxima_of(spec, most=2.0):
    return {w.module: most for w in weights_of(spec) if w.kind == "projection"}


def rounded_up(exact):
    """In float16, and never below: the largest value is not clipped."""
    near = exact.astype(np.float16)
    return np.where(near < exact, np.nextafter(near, np.float16(np.inf)), near)


def written(path, spec=TINY, tensors=None, maxima=None, precision=INT8, dense=frozenset(), **more):
    layout, source = layout_of(spec, precision, dense), MemorySource(spec, tensors)
    write_weights(path, source, layout, silent, maxima or maxima_of(spec), **more)
    found = {name: v for name, v in load_file(path).items() if not name.startswith("_pad")}
    # NumPy has no E4M3.
    return {name: (v.float() if v.dtype == FP8 else v).numpy() for name, v in found.items()}


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


def test_projections_are_e4m3_with_a_scale_per_output_channel(tmp_path):
    tensors = random_tensors(BIASED)
    found = written(tmp_path / "w", BIASED, tensors, precision=FLOAT8)
    for weight in (w for w in weights_of(BIASED) if w.kind == "projection"):
        parts = np.concatenate([tensors[part.name].numpy() for part in weight.parts])
        scale = rounded_up(np.abs(parts).max(1) / np.float32(448))
        wanted = (parts / scale.astype(np.float32)[:, None]).astype(E4M3).astype(np.float32)
        np.testing.assert_array_equal(found[f"{weight.name}_scale"], scale)
        np.testing.assert_array_equal(found[weight.name], wanted.T)
        assert np.abs(wanted).max(1).min() >= 416  # every channel reaches to the end of the range
        assert found[f"{weight.module}.input_scale"] == rounded_up(np.float32(2) / np.float32(448))


ALL = pytest.mark.parametrize(
    "precision", [INT8, EIGHT, FOUR, FLOAT8], ids=["int8", "int8-wo", "int4", "fp8"]
)


@ALL
def test_projections_in_many_blocks_are_the_same_bytes_as_in_one(tmp_path, monkeypatch, precision):
    spec = replace(TINY, dim=601, ffn_dim=520)
    files = []
    for chunk in (1, 1 << 30):
        monkeypatch.setattr(weights, "CHUNK_VALUES", chunk)
        written(tmp_path / str(chunk), spec, precision=precision)
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


def test_int8_weights_alone_are_those_of_int8_with_no_scale_of_an_input(tmp_path):
    both, alone = written(tmp_path / "a"), written(tmp_path / "b", precision=EIGHT)
    assert both.keys() - alone.keys() == {f"{module}.input_scale" for module in maxima_of(TINY)}
    for name, values in alone.items():
        np.testing.assert_array_equal(values, both[name])


FINITE = torch.arange(256, dtype=torch.uint8).view(FP8).float()
FINITE = FINITE[FINITE.isfinite()]
ANY = st.floats(width=32, allow_nan=False)


@given(ANY | st.floats(-500, 500, width=32) | st.floats(-(2**-5), 2**-5, width=32))
def test_no_value_of_e4m3_is_nearer_and_what_is_beyond_them_saturates(value):
    (found,) = fp8(torch.tensor([value])).float().tolist()
    wanted = float(np.float32(np.clip(value, -448, 448)).astype(E4M3))
    assert found == wanted
    assert (
        abs(found - np.clip(value, -448, 448)) == (FINITE - np.clip(value, -448, 448)).abs().min()
    )


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), st.lists(st.integers(-8, 7), **sized(s)))))
def test_int4_is_packed_as_onnx_unpacks_it_and_comes_back(drawn):
    shape, values = drawn
    there = torch.tensor(values, dtype=torch.int8).view(shape)
    stored = packed(there)
    raw = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, shape, stored.numpy().tobytes(), True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(raw).astype(np.int8), there.numpy())
    back = unpacked(stored.view(packed_shape(*shape)), shape)
    assert (back.dtype, back.tolist()) == (torch.int8, there.tolist())


def sized(shape):
    return {"min_size": shape[0] * shape[1], "max_size": shape[0] * shape[1]}


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("spec", [TINY, BIASED], ids=["plain", "biased"])
def test_projections_are_int4_in_blocks_and_near_what_they_were(tmp_path, spec, block):
    precision, tensors = replace(FOUR, block=block), random_tensors(spec)
    found = written(tmp_path / "w", spec, tensors, precision=precision)
    for weight in weights_of(spec):
        parts = np.concatenate([tensors[part.name].numpy() for part in weight.parts])
        if weight.kind != "projection":
            np.testing.assert_array_equal(found[weight.name], parts.astype(np.float16))
            continue
        inputs, outputs = weight.shape
        stored, scales = found[weight.name], found[f"{weight.name}_scale"]
        assert (stored.dtype, stored.shape) == (np.uint8, (inputs, outputs // 2))
        width = precision.block_of(inputs)
        assert (scales.dtype, scales.shape) == (np.float16, (-(-inputs // width), outputs))
        values = unpacked(torch.from_numpy(stored), weight.shape).numpy()
        wide = np.repeat(scales.astype(np.float32), width, axis=0)[:inputs]
        error = np.abs(values * wide - parts.T)
        inside = (values > -8) & (values < 7)
        assert (error <= wide / 2 * 1.001)[inside].all()
        assert inside.mean() > 0.9
        assert error.max() < np.abs(parts).max() / 5


def test_an_int4_scale_errs_no_more_than_that_of_the_largest_value():
    weight = torch.randn(40, 64, generator=torch_dice(0))
    weight[3, :32], weight[4, 7] = 0.0, 90.0
    found = int4_nearest(weight.T, 32, torch.float32, "w")
    error = (spread(found) - weight.T).square().view(2, 32, 40).sum(1)
    plain = weight.view(40, 2, 32).abs().amax(2).T / 7
    steps = (weight.T.view(2, 32, 40) / plain.clamp_min(1e-9)[:, None]).round().clamp(-8, 7)
    other = (steps * plain[:, None] - weight.T.view(2, 32, 40)).square().sum(1)
    assert (error <= other * 1.0001 + 1e-12).all()
    rest = torch.arange(40) != 4  # what the outlier costs is as much in both
    assert error[:, rest].sum() < 0.95 * other[:, rest].sum()
    assert (found.scales > 0).all()
    assert not found.values[:32, 3].any()


def spread(found):
    return found.values * found.scales.repeat_interleave(32, 0)


@pytest.mark.parametrize("precision", [EIGHT, FOUR], ids=["int8-wo", "int4"])
@pytest.mark.parametrize("wrong", [1e7, 3e38])
def test_weights_without_a_scale_are_refused_by_name(tmp_path, precision, wrong):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = wrong
    with pytest.raises(BadInput, match=r"layers\.1\.gate_up\.weight reaches .* has no scale"):
        written(tmp_path / "w", TINY, tensors, precision=precision)


@ALL
def test_values_that_are_handed_over_are_written_as_they_are(tmp_path, precision):
    asked, layout = [], layout_of(TINY, precision)
    least = -8 if precision == FOUR else -127
    generator = torch_dice(0)

    def ready(module):
        asked.append(module)
        if not module.startswith("layers.1."):
            return None
        weight = next(w for w in weights_of(TINY) if w.name == f"{module}.weight")
        values = torch.randint(least, -least, weight.shape, generator=generator, dtype=torch.int8)
        scales = torch.rand(layout.places[f"{weight.name}_scale"].shape, generator=generator) + 1
        values = values.to(FP8) if precision == FLOAT8 else values
        given_[module] = Quantized(values, scales.half())
        return given_[module]

    given_: dict[str, Quantized] = {}
    found = written(tmp_path / "w", precision=precision, ready=ready)
    nearest = written(tmp_path / "n", precision=precision)
    projections = [w for w in weights_of(TINY) if linear_of(w, precision, frozenset()) != "dense"]
    assert asked == [weight.module for weight in projections]
    for weight in projections:
        name, value = f"{weight.name}_scale", given_.get(weight.module)
        if value is None:
            np.testing.assert_array_equal(found[weight.name], nearest[weight.name])
            np.testing.assert_array_equal(found[name], nearest[name])
            continue
        stored = torch.from_numpy(found[weight.name])
        back = unpacked(stored, weight.shape) if precision == FOUR else stored
        assert torch.equal(back.float(), value.values.float())
        assert torch.equal(torch.from_numpy(found[name]), value.scales)


WRONG = {
    "shape": lambda v, s: (v.T.contiguous(), s),
    "range": lambda v, s: (v - 8, s),
    "dtype": lambda v, s: (v, s.float()),
    "scale": lambda v, s: (v, -s),
    "grid": lambda v, s: (v.to(FP8), s),
    "blocks": lambda v, s: (v, s[:1].contiguous()),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_values_that_do_not_fit_are_no_export(tmp_path, wrong):
    def ready(module):
        weight = next(w for w in weights_of(TINY) if w.name == f"{module}.weight")
        shape = layout_of(TINY, FOUR).places[f"{weight.name}_scale"].shape
        values = torch.full(weight.shape, -1, dtype=torch.int8)
        return Quantized(*wrong(values, torch.ones(shape).half()))

    with pytest.raises(AssertionError, match=r"layers\.0\.qkv"):
        written(tmp_path / "w", precision=FOUR, ready=ready)


def test_dense_modules_keep_their_values(tmp_path):
    dense = frozenset({"layers.0.o", "layers.1.down"})
    found = written(tmp_path / "w", precision=FOUR, dense=dense)
    full = written(tmp_path / "f", precision=PRECISIONS["fp16"])
    for module in dense:
        np.testing.assert_array_equal(found[f"{module}.weight"], full[f"{module}.weight"])
        assert f"{module}.weight_scale" not in found
    with pytest.raises(AssertionError, match=r"no layers\.2\.o"):
        layout_of(TINY, FOUR, frozenset({"layers.2.o"}))


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_scales_are_of_the_type_that_is_computed_in(compute):
    kinds = {"fp32": "F32", "bf16": "BF16"}
    for precision in (INT8, EIGHT, FOUR, FLOAT8):
        places = layout_of(TINY, replace(precision, compute=compute)).places
        assert places["layers.0.o.weight_scale"].dtype == kinds[compute]


def test_a_precision_has_blocks_where_it_is_int4_and_nowhere_else():
    for linear, block in (("int4", None), ("int4", 16), ("int8", 32), ("dense", 64)):
        with pytest.raises(ValueError, match="blocks"):
            Precision(compute="fp16", linear=linear, block=block)
