"""The `standard` dialect: what it may hold, and ONNX Runtime against eager PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from llx.bench import parity
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.graphs.inspect import op_counts
from tests.checkpoints import SPECS
from tests.conftest import export_tiny


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def artifact(request, tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("standard"), spec=request.param)


def test_the_graph_is_opset_24_of_onnx_itself(artifact):
    model = onnx.load(artifact.path("standard.onnx"), load_external_data=False)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 24)]
    assert {node.domain for node in model.graph.node} == {""}
    counts = op_counts(artifact.path("standard.onnx"))
    layers = artifact.manifest.spec.layers
    assert (counts["Attention"], counts["TensorScatter"], counts["RotaryEmbedding"]) == (
        layers,
        2 * layers,
        2 * layers,
    )


def test_the_mask_and_the_write_index_are_made_once(artifact):
    counts = op_counts(artifact.path("standard.onnx"))
    assert counts["LessOrEqual"] == 1
    assert counts["Gather"] == 2  # the embedding, and the write index


def test_onnx_runtime_agrees_with_eager_pytorch_in_prefill_and_decode(artifact):
    ort, torch = OrtSession(artifact), TorchSession.open(artifact)
    found = parity.compare(ort, torch)
    assert found.prefill_error <= 1e-5
    assert found.decode_error <= 1e-5
    assert found.same_top1
    for ours, theirs in zip(ort._cache, torch._cache, strict=True):
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)


def test_right_padded_rows_agree_and_decode_over_their_pad(artifact):
    rng = np.random.default_rng(0)
    vocab = artifact.manifest.spec.vocab
    tokens = rng.integers(0, vocab, (3, 12), dtype=np.int64)
    lengths = np.array([12, 5, 8])
    answers = []
    for session in (OrtSession(artifact, 3), TorchSession.open(artifact, 3)):
        session.enqueue(tokens, np.tile(np.arange(12), (3, 1)), (lengths - 1)[:, None])
        logits = [session.logits().copy()]
        for i in range(3):
            fed = np.full((3, 1), 7 + i, dtype=np.int64)
            session.enqueue(fed, (lengths + i)[:, None], np.zeros((3, 1), np.int64))
            logits.append(session.logits().copy())
        answers.append(np.concatenate(logits, 1))
    np.testing.assert_allclose(*answers, atol=1e-5, rtol=0)


def test_fp16_graphs_give_logits_in_fp32_close_to_the_reference(tmp_path):
    half, full = export_tiny(tmp_path / "h", "fp16"), export_tiny(tmp_path / "f")
    found = parity.compare(OrtSession(half), TorchSession.open(full))
    assert OrtSession(half).logits().dtype == np.float32
    assert 1e-5 < found.prefill_error < 2e-2
    assert found.decode_error < 2e-2
