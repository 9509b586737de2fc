"""What was exported as it should be is never accused, in any precision, size or seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import llx
from llx.bench.fidelity import oracle, tolerance
from llx.bench.fidelity.oracle import Arithmetic
from llx.precision import PRECISIONS
from tests.checkpoints import SEED, SPECS, TINY, random_tensors, write_checkpoint
from tests.conftest import export_tiny

WIDER = replace(TINY, dim=96, heads=8, kv_heads=2, head_dim=12, ffn_dim=200, layers=5, tied=True)
TIED = replace(SPECS["biased"], tied=True)
SHAPES = {name: SPECS[name] for name in ("gqa", "mha-tied", "llama3-rope")}
SHAPES |= {"biased-tied": TIED, "wider": WIDER}
DENSE_SHARES = (0.0, 0.4)
slow = pytest.mark.slow


def scaled(tensors, dice):
    """Weights as training may leave them: layers of unlike sizes, and channels that stand out."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor * float(10 ** dice.uniform(-1, 0.5))
        if tensor.ndim == 2 and "embed" not in name:
            found[name][:, int(dice.integers(tensor.shape[1]))] *= float(dice.uniform(1, 30))
    return found


def checked(artifact):
    """Every op, of every graph; a `GateFailed` is the failure."""
    lines = llx.check(artifact, verbose=True)
    looked_at = sum(line.startswith("op by op") for line in lines)
    bf16 = artifact.manifest.precision.compute == "bf16"
    assert bf16 or looked_at == len(artifact.dialects), lines
    assert any("parity of" in line for line in lines)


@slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_precision_of_every_shape_passes(tmp_path, shape, precision):
    seed = list(SHAPES).index(shape) + 100 * list(PRECISIONS).index(precision)
    dice = np.random.default_rng(seed + 1000 * SEED)
    share = DENSE_SHARES[seed % 2] if PRECISIONS[precision].linear != "dense" else 0.0
    artifact = export_tiny(tmp_path / "plain", precision, SHAPES[shape], dense_share=share)
    checked(artifact)
    tensors = scaled(random_tensors(SHAPES[shape], seed), dice)
    folder = write_checkpoint(tmp_path / "scaled", SHAPES[shape], tensors)
    options = {"calibration_windows": 2} if PRECISIONS[precision].linear != "dense" else {}
    checked(llx.export(weights=folder, precision=precision, output=tmp_path / "out", **options))


def test_a_healthy_artifact_passes_op_by_op(tiny):
    checked(tiny)


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_sums_in_any_order_stay_within_their_bound(compute):
    """Forwards, backwards, in blocks, and with the largest first: what kernels may do."""
    dice = np.random.default_rng(SEED)
    a = Arithmetic.of(compute)
    dtype = {"fp32": np.float32, "fp16": np.float16}[compute]
    sums = np.float32 if a.sums == tolerance.UNIT["fp32"] else dtype
    for terms in (1, 7, 64, 1000, 20000):
        x = dice.normal(1, 3, (2, terms)).astype(dtype)
        sizes = dice.lognormal(-4, 1.5, (terms, 1))
        weight = (dice.normal(0, 1, (terms, 3)) * sizes).astype(dtype)
        expected = oracle.linear(a, x.astype(np.float64), weight)
        products = (x[:, :, None].astype(sums) * weight.astype(sums)[None]).astype(sums)
        orders = [
            products,
            products[:, ::-1],
            np.sort(products, 1),
            products[:, dice.permutation(terms)],
        ]
        for order in orders:
            one_by_one = np.cumsum(order, 1, dtype=sums)[:, -1].astype(dtype)
            assert (oracle.beyond(one_by_one, expected) <= 1).all(), terms


def test_a_bound_is_not_so_wide_that_it_means_nothing():
    """Of a layer as large as models have, an error of a hundredth is far beyond in fp16."""
    dice = np.random.default_rng(SEED)
    x, weight = dice.normal(0, 1, (4, 4096)), dice.normal(0, 0.02, (4096, 8))
    x, weight = x.astype(np.float16), weight.astype(np.float16)
    expected = oracle.linear(Arithmetic.of("fp16"), x.astype(np.float64), weight)
    size = np.sqrt(np.square(expected.wanted).mean())
    assert expected.allowed.max() < 0.01 * size


def test_gamma_is_the_smaller_of_both_bounds_and_never_more_than_everything():
    unit = tolerance.UNIT["fp32"]
    assert tolerance.gamma(4, unit) == pytest.approx(4 * unit)
    assert tolerance.gamma(10_000, unit) == pytest.approx(tolerance.LAMBDA * 100 * unit)
    assert tolerance.gamma(10**9, tolerance.UNIT["fp16"]) == 1.0
