"""What every dialect must do: a new line in `DIALECTS` falls in here by itself."""

from __future__ import annotations

import numpy as np
import pytest

from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.bench.speed import steps
from llx.errors import BadInput
from llx.graphs.dialects import DIALECTS, dialect_named
from llx.graphs.inspect import problems
from tests import parity
from tests.checkpoints import KIN_SPECS, SPECS, dice
from tests.conftest import export_tiny


@pytest.fixture(scope="module", params=(SPECS | KIN_SPECS).values(), ids=SPECS | KIN_SPECS)
def artifact(request, tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("dialects"), spec=request.param)


# Of two engines' fp32: sums in another order have differed by 1.1e-5 (a CPU without AVX), and a
# position, a mask or a factor that is wrong by 1e-2.
TOLERANCE = 1e-4
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


@every_dialect
def test_onnx_runtime_agrees_with_eager_pytorch_in_prefill_and_decode(artifact, dialect):
    ort, torch = OrtSession(artifact, 1, dialect), TorchSession.open(artifact)
    found = parity.compare(ort, torch)
    assert found.prefill_error <= TOLERANCE
    assert found.decode_error <= TOLERANCE
    assert found.same_top1
    for ours, theirs in zip(ort._cache, torch._cache, strict=True):
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE, rtol=0)


@every_dialect
def test_right_padded_rows_agree_and_go_on_over_their_pad(artifact, dialect):
    rng = dice(0)
    tokens = rng.integers(0, artifact.manifest.spec.vocab, (3, 18), dtype=np.int64)
    lengths = np.array([12, 5, 8])
    answers = []
    for session in (OrtSession(artifact, 3, dialect), TorchSession.open(artifact, 3)):
        prompt = np.ascontiguousarray(tokens[:, :12])
        session.enqueue(prompt, np.tile(np.arange(12), (3, 1)), (lengths - 1)[:, None])
        logits = [session.logits().copy()]
        # One, then three, then two more tokens: each row's from where its own prompt ended.
        for start, end in ((0, 1), (1, 4), (4, 6)):
            new = np.arange(end - start)
            fed = np.ascontiguousarray(tokens[:, 12 + start : 12 + end])
            positions = lengths[:, None] + start + new
            session.enqueue(fed, positions, np.tile(new, (3, 1)))
            logits.append(session.logits().copy())
        answers.append(np.concatenate(logits, 1))
    np.testing.assert_allclose(*answers, atol=TOLERANCE, rtol=0)


@every_dialect
def test_what_is_stale_in_the_cache_weighs_nothing(tiny, dialect):
    clean, stale = OrtSession(tiny, 1, dialect), OrtSession(tiny, 1, dialect)
    for cache in stale._cache:
        cache[:] = 1e4 * dice(1).standard_normal(cache.shape)
    tokens = dice(0).integers(0, 300, (1, 12), dtype=np.int64)
    for session in (clean, stale):
        session.reset()
        steps.prefill(session, tokens[:, :5])
        steps.prefill(session, tokens[:, 5:11], start=5)
        steps.decode_step(session, np.ascontiguousarray(tokens[:, 11:]), 11)
    np.testing.assert_array_equal(stale.logits(), clean.logits())


@every_dialect
def test_fp16_graphs_give_logits_in_fp32_close_to_the_reference(tmp_path, dialect):
    half, full = export_tiny(tmp_path / "h", "fp16"), export_tiny(tmp_path / "f")
    session = OrtSession(half, 1, dialect)
    found = parity.compare(session, TorchSession.open(full))
    assert session.logits().dtype == np.float32
    assert 1e-5 < found.prefill_error < 2e-2
    assert found.decode_error < 2e-2


@pytest.mark.parametrize("dialect", ["standard", "primitive"])
def test_a_graph_of_another_dialect_is_found_out(tiny, dialect):
    other = "primitive" if dialect == "standard" else "standard"
    path = tiny.path(f"{dialect}.onnx")
    assert problems(path, tiny.manifest.contract, DIALECTS[other]) == [
        "its outputs are not those of the contract",
        f"it is not of opset {DIALECTS[other].opset} of ONNX itself and nothing else",
    ]


def test_inputs_that_are_not_the_contracts_are_found_out(tmp_path):
    path = export_tiny(tmp_path, context=16).path("standard.onnx")
    wanted = export_tiny(tmp_path / "b", context=17).manifest.contract
    assert problems(path, wanted, DIALECTS["standard"]) == [
        "its inputs are not those of the contract",
        "its outputs are not those of the contract",
    ]


def test_a_dialect_of_another_version_is_bad_input():
    with pytest.raises(BadInput, match=r"unknown dialect 'mlx': export again: .* standard, p"):
        dialect_named("mlx")
