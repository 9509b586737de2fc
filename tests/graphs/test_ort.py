"""The dialect of ONNX Runtime's own ops: what stands in its graphs, what kernels make of it.

What MatMulNBits rounds has no counterpart in PyTorch, so a graph is held to it twice: its logits
where nothing is rounded (accuracy level 1), and each layer by itself as it is run.
"""

from __future__ import annotations

import os
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from llx.bench.fidelity.linears import linear_parities, rounded_in_blocks
from llx.bench.sessions import ENGINES
from llx.bench.sessions.ort import NO_FLASH, OrtSession, unfilled
from llx.bench.sessions.ort_arithmetic import arithmetic_of, rounds_inputs, session_options
from llx.bench.sessions.torch import TorchSession
from llx.bench.speed.steps import decode_step
from llx.graphs.dialects import DIALECTS, PLAIN
from llx.graphs.dialects.ort import ORT
from llx.graphs.inspect import op_counts, problems
from llx.precision import Compute, Precision
from tests import parity, roundings
from tests.checkpoints import BIASED, MHA, SIXTEENS, TINY, dice
from tests.conftest import export_tiny, logits_on_text

# Of 64, 128 and 96 inputs: whole blocks of 32, which MatMulNBits takes.
WHOLE = replace(TINY, dim=64, heads=8, head_dim=16, ffn_dim=96)
SPECS = {"whole": WHOLE, "whole-tied": replace(WHOLE, tied=True, kv_heads=8), "odd": BIASED}
LEVEL = "session.qdq_matmulnbits_accuracy_level"


def few(linear: str, vocab: str = "int8", compute: Compute = "fp32") -> Precision:
    block = 32 if linear == "int4" else None
    return Precision(compute=compute, linear=linear, block=block, vocab=vocab)  # type: ignore


@pytest.fixture(
    scope="module", params=[(s, p) for s in SPECS for p in ("int8-wo", "int4")], ids="-".join
)
def weight_only(request, tmp_path_factory):
    spec, linear = request.param
    return export_tiny(tmp_path_factory.mktemp("ort"), few(linear, "dense"), SPECS[spec])


def test_where_nothing_is_rounded_few_bits_are_what_eager_pytorch_computes(
    weight_only, monkeypatch
):
    monkeypatch.setattr("llx.bench.sessions.ort_arithmetic.settings_of", lambda *_: {LEVEL: "1"})
    found = parity.compare(OrtSession(weight_only), TorchSession.open(weight_only))
    assert max(found.prefill_error, found.decode_error) <= 1e-4


@pytest.mark.parametrize("vocab", ["dense", "int8"])
@pytest.mark.parametrize("linear", ["int8", "int8-wo", "int4", "fp8"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_layer_is_what_its_weights_and_rounded_inputs_say(tmp_path, spec, linear, vocab):
    artifact = export_tiny(tmp_path, few(linear, vocab), spec)
    found = list(linear_parities(artifact, "ort"))
    assert len(found) == 4 * spec.layers + (vocab == "int8")
    assert max(one.beyond for one in found) <= 1


def test_inputs_are_rounded_in_blocks_and_no_otherwise(tmp_path, monkeypatch):
    """Held against no rounding and against one step for a whole row: both would be found out."""
    if not rounds_inputs(8):
        pytest.skip("this CPU has no integer kernels for MatMulNBits")
    artifact = export_tiny(tmp_path, few("int8-wo", "dense"), WHOLE)
    x = dice().standard_normal((1, 64)).astype(np.float32)
    rounded, slack = rounded_in_blocks(x, 32)
    steps = np.abs(x.reshape(2, 32)).max(1) / 127
    assert np.abs(rounded - x).reshape(2, 32).max(1) == pytest.approx(steps / 2, rel=0.2)
    assert np.count_nonzero(slack) <= 2
    monkeypatch.setattr(
        "llx.bench.fidelity.linears.rounded_in_blocks", lambda x, block: rounded_in_blocks(x, 64)
    )
    assert max(one.beyond for one in linear_parities(artifact, "ort")) > 10


@pytest.mark.parametrize("spec", [WHOLE, TINY, MHA], ids=["whole", "gqa", "mha-tied"])
def test_int8_multiplies_the_integers_that_standard_says(tmp_path, spec):
    artifact = export_tiny(tmp_path, few("int8"), spec)
    counts = op_counts(artifact.path("ort.onnx"))
    assert counts["MatMulIntegerToFloat"] == counts["QuantizeLinear"] == 4 * spec.layers
    found, rounded, ort, eager = roundings.compare(artifact, tmp_path, "ort")
    rounded.require_on_edges()
    # The table of the logits is multiplied by inputs that are rounded, which eager's are not.
    assert max(found.prefill_error, found.decode_error) <= 0.1 * found.spread
    for ours, theirs in zip(ort._cache, eager._cache, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=roundings.TOLERANCE, rtol=0)


@pytest.mark.parametrize("compute", ["fp16", "bf16"])
@pytest.mark.parametrize("linear", ["dense", "int8", "int8-wo", "int4", "fp8"])
def test_it_computes_in_fp32_from_what_is_stored_in_less(tmp_path, compute, linear):
    precision = Precision(compute=compute) if linear == "dense" else few(linear, "int8", compute)
    artifact = export_tiny(tmp_path, precision, WHOLE)
    path, contract = artifact.path("ort.onnx"), artifact.manifest.contract
    assert problems(path, contract, ORT, precision) == []
    types = {value.dtype for value in ir.load(path).graph.inputs} - {ir.DataType.INT64}
    assert types == {ir.DataType.FLOAT}
    ours, wanted = (
        logits_on_text(session) for session in (OrtSession(artifact), TorchSession.open(artifact))
    )
    # A step of E4M3 is up to an eighth of a value: what halves move over an edge moves by as much.
    allowed = 0.15 if linear == "fp8" else 0.05
    assert np.sqrt(np.square(ours - wanted).mean()) < allowed * wanted.std()


def test_heads_that_group_query_attention_does_not_take_are_spelled_as_in_standard(tmp_path):
    counts = {
        spec: op_counts(export_tiny(tmp_path / str(spec.head_dim), spec=spec).path("ort.onnx"))
        for spec in (TINY, SIXTEENS)
    }
    assert counts[TINY]["Attention"] == counts[SIXTEENS]["GroupQueryAttention"] == TINY.layers
    assert not counts[TINY]["GroupQueryAttention"] + counts[SIXTEENS]["Attention"]


def test_rows_of_different_length_go_on_together(tmp_path):
    """Several tokens on a filled cache, which GroupQueryAttention takes of one row alone."""
    artifact = export_tiny(tmp_path, spec=SIXTEENS)
    tokens = dice().integers(0, 300, (2, 9))
    starts = np.array([[3], [0]])
    answers = []
    for session in (OrtSession(artifact, 2), TorchSession.open(artifact, 2)):
        session.enqueue(tokens[:, :3], np.tile(np.arange(3), (2, 1)), np.array([[2], [2]]))
        for width in (4, 1, 1):
            positions = starts + np.arange(width)
            session.enqueue(tokens[:, :width], positions, np.tile(np.arange(width), (2, 1)))
            answers.append(session.logits().copy())
    for ours, theirs in zip(answers[:3], answers[3:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_long_prefill_attends_in_parts(tmp_path, monkeypatch, rows):
    """Logits of any of its positions, in any order; what goes on finds the whole cache."""
    monkeypatch.setattr("llx.bench.sessions.ort.CHUNK", 4)
    artifact = export_tiny(tmp_path, spec=SIXTEENS)
    tokens = dice().integers(0, 300, (rows, 13))
    wanted = np.array([[10, 0, 3, 4], [1, 9, 8, 2]])[:rows]
    found = []
    for session in (OrtSession(artifact, rows), TorchSession.open(artifact, rows)):
        session.enqueue(tokens[:, :11], np.tile(np.arange(11), (rows, 1)), wanted)
        found.append(session.logits().copy())
        for at in (11, 12):
            decode_step(session, tokens[:, at : at + 1], at)
            found.append(session.logits().copy())
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("most", "said"), [(1 << 30, "1"), (0, None)], ids=["whole", "flash"])
def test_both_kernels_of_attention_give_the_same_logits(tmp_path, monkeypatch, most, said):
    monkeypatch.delenv(NO_FLASH, raising=False)
    monkeypatch.setattr("llx.bench.sessions.ort.MOST_SCORES", most)
    artifact = export_tiny(tmp_path, spec=WHOLE)
    session = OrtSession(artifact)
    assert session.details().get(NO_FLASH) == said
    assert NO_FLASH not in os.environ
    found = parity.compare(session, TorchSession.open(artifact))
    assert max(found.prefill_error, found.decode_error) <= 1e-4


@pytest.mark.parametrize(
    "precision",
    ["fp32", few("int8"), few("int8-wo"), few("int4")],
    ids=["fp32", "int8", "int8-wo", "int4"],
)
def test_no_step_takes_memory_where_the_cache_was_written_before(tmp_path, precision):
    session = OrtSession(export_tiny(tmp_path, precision, WHOLE))
    token = np.zeros((1, 1), np.int64)

    def decode():
        session.reset()
        for at in range(session.limits.capacity):
            decode_step(session, token, at)

    decode()
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        decode()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) == 0  # another thread of this process may have taken some
    tracemalloc.start()
    try:
        decode()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < session._cache[0].nbytes / 2  # no cache was copied


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_slots_take_memory_once_they_are_written():
    """Also where pages of 2 MiB are to be had: one for each head and layer would be 64 MiB here."""
    caches = [unfilled((1, 4, 8192, 64), np.float32) for _ in range(8)]
    before = resident_bytes()
    for cache in caches:
        assert not cache[:, :, :3].any()
        cache[:, :, :2] = 1
    assert resident_bytes() - before < 8 << 20
    assert all(cache[:, :, :2].all() and not cache[:, :, 2:].any() for cache in caches)


def resident_bytes():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def test_sums_of_integers_are_cut_off_on_no_cpu():
    """With AVX2 and no VNNI, two products of uint8 and int8 are added in 16 bits, unless asked."""
    x, w = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    model = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["": 24, "com.microsoft": 1]>'
        "g (uint8[1,64] x) => (float[1,16] y) <int8[64,16] w, float a, float b, uint8 z> "
        "{ y = com.microsoft.MatMulIntegerToFloat(x, w, a, b, z) }"
    )
    held = {"w": w, "a": np.float32(1), "b": np.float32(1), "z": np.uint8(0)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()
    )
    options = session_options(few("int8"), "ort")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    assert (session.run(None, {"x": x})[0] == 64 * 255 * 127).all()


def test_an_artifact_without_its_graph_is_run_by_that_of_onnx_itself(tiny, tmp_path):
    files = {k: v for k, v in tiny.manifest.files.items() if k != "ort.onnx"}
    older = replace(tiny, manifest=replace(tiny.manifest, files=files))
    assert OrtSession(older).details()["dialect"] == "standard"
    assert ENGINES["ort"].reads(older) == ["weights.safetensors", "standard.onnx"]
    assert OrtSession(tiny).details()["dialect"] == "ort"
    assert ENGINES["ort-standard"].open(tiny, 1).details()["dialect"] == "standard"


def test_a_result_says_what_is_multiplied():
    assert arithmetic_of(few("int8"), "ort") == "int8 by int8, fp32 where a layer is dense"
    assert arithmetic_of(Precision(compute="bf16"), "ort") == "fp32"
    for dialect in PLAIN:
        assert arithmetic_of(few("int4"), dialect) == "fp32, inputs as they are"
        assert arithmetic_of(few("int8"), dialect) == "fp32, inputs rounded to int8"
    for dialect in DIALECTS:
        assert arithmetic_of(few("fp8"), dialect) == "fp32, inputs rounded to fp8"
    said = arithmetic_of(few("int4"), "ort")
    assert said == (
        "int4 by int8: inputs rounded in blocks of 32 as they come"
        if rounds_inputs(4)
        else "fp32, inputs as they are"
    )


@pytest.mark.parametrize("precision", ["fp16", "int8-wo"])
def test_lowering_leaves_nothing_for_a_library_to_complain_of(tmp_path, caplog, precision):
    export_tiny(tmp_path, precision)
    assert not [one.getMessage() for one in caplog.records if one.name.startswith("onnx_ir")]
