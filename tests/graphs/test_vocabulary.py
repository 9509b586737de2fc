"""The vocabulary's tables in int8: one file, two uses, in every precision and dialect."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest
import torch
from safetensors import safe_open

from llx.bench.fidelity.linears import linear_parities
from llx.bench.roofline.work import bytes_per_decode_step, weights_bytes
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.errors import BadInput
from llx.exporter.load import embedded
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.judge import Judge
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.quantize import rounded_rows
from llx.graphs.dialects import DIALECTS, PLAIN
from llx.graphs.inspect import problems
from llx.llama.weights import weights_of
from llx.manifest import WEIGHTS
from llx.precision import Precision, precision_named
from tests import parity, roundings
from tests.checkpoints import BIASED, MHA, TINY, MemorySource, dice, random_tensors
from tests.conftest import export_tiny
from tests.exporter.quantization.test_budget import logits

SPECS = {"gqa": TINY, "tied": replace(MHA, kv_heads=3), "biased": BIASED}
LINEARS = ("int8", "int8-wo", "int4", "fp8")
TOLERANCE = 1e-5


def in_fp32(linear):
    return Precision(
        compute="fp32", linear=linear, block=32 if linear == "int4" else None, vocab="int8"
    )


@pytest.fixture(scope="module", params=[(s, p) for s in SPECS for p in LINEARS], ids="-".join)
def artifact(request, tmp_path_factory):
    spec, linear = request.param
    return export_tiny(tmp_path_factory.mktemp("vocabulary"), in_fp32(linear), SPECS[spec])


def tables(spec):
    return ["embed"] if spec.tied else ["embed", "unembed"]


@pytest.mark.parametrize("dialect", PLAIN)
def test_rows_are_dequantized_where_they_are_looked_up_and_where_they_give_logits(
    artifact, dialect
):
    path, manifest = artifact.path(f"{dialect}.onnx"), artifact.manifest
    found = problems(path, manifest.contract, DIALECTS[dialect], manifest.precision)
    assert found == []
    graph, spec = ir.load(path).graph, manifest.spec
    for module in tables(spec):
        values = graph.initializers[f"{module}.weight"]
        assert values.dtype == ir.DataType.INT8
        assert tuple(values.shape) == (spec.vocab, spec.dim)
        assert tuple(graph.initializers[f"{module}.weight_scale"].shape) == (spec.vocab,)
    # TensorRT takes an int8 constant before a DequantizeLinear alone; it gathers int8 all the same.
    uses = {
        (node.inputs[0].name, node.outputs[0].consumers()[0].op_type)
        for node in graph
        if node.op_type == "DequantizeLinear"
        and node.inputs[0].name.startswith(tuple(tables(spec)))
    }
    head = "embed" if spec.tied else "unembed"
    assert uses == {("embed.weight", "Gather"), (f"{head}.weight", "Transpose")}


@pytest.mark.parametrize("dialect", PLAIN)
def test_onnx_runtime_agrees_with_eager_pytorch(artifact, tmp_path, dialect):
    if artifact.manifest.precision.weight_only:
        found = parity.compare(OrtSession(artifact, 1, dialect), TorchSession.open(artifact))
    else:
        found, rounded, *_ = roundings.compare(artifact, tmp_path, dialect)
        rounded.require_on_edges()
    assert found.prefill_error <= TOLERANCE
    assert found.decode_error <= TOLERANCE
    assert found.spread > 1000 * TOLERANCE


def test_check_sees_the_table_of_the_logits(artifact):
    found = {one.module: one for one in linear_parities(artifact)}
    head = "embed" if artifact.manifest.spec.tied else "unembed"
    assert len(found) == 4 * artifact.manifest.spec.layers + 1
    assert found[head].rounding is None
    assert found[head].product < 1e-5


def test_rows_are_the_checkpoints_rounded_to_nearest_and_stored_once(artifact):
    spec = artifact.manifest.spec
    tensors = random_tensors(spec)
    names = {weight.module: weight.parts[0].name for weight in weights_of(spec)}
    with safe_open(artifact.path(WEIGHTS), framework="pt") as file:
        held = [name for name in file.keys() if "embed" in name]
        assert sorted(held) == sorted(
            f"{module}.{part}" for module in tables(spec) for part in ("weight", "weight_scale")
        )
        for module in tables(spec):
            scale = file.get_tensor(f"{module}.weight_scale").unsqueeze(1)
            values = file.get_tensor(f"{module}.weight")
            error = (values * scale - tensors[names[module]].float()).abs()
            assert bool((error <= scale * 0.501).all())
            assert bool((values.abs().amax(1) == 127).all())
        beside = ("_pad", "rope"), ".input_scale"
        stored = sum(
            file.get_tensor(name).nbytes
            for name in file.keys()
            if not (name.startswith(beside[0]) or name.endswith(beside[1]))
        )
    assert stored == weights_bytes(spec, artifact.manifest.precision)


def test_a_step_reads_a_byte_a_value_of_the_tables():
    untied = replace(TINY, vocab=100)
    tied = replace(untied, tied=True)
    dense = Precision(compute="fp16", linear="int8-wo")
    less = 100 * TINY.dim - 2 * 100  # a byte of each value, less the scales
    for spec, rows in ((tied, 0), (untied, 1)):  # of an untied embedding a row is read
        read, full = (
            bytes_per_decode_step(spec, precision, 5, 1)
            for precision in (replace(dense, vocab="int8"), dense)
        )
        assert full - read == less + rows * (TINY.dim - 2)


@pytest.mark.parametrize("spec", [SPECS["tied"], TINY], ids=["tied", "untied"])
def test_a_budget_counts_what_the_tables_cost(tmp_path, spec):
    precision = in_fp32("int8-wo")
    tokens = dice(2).integers(0, spec.vocab, (2, 40))
    source = MemorySource(spec, random_tensors(spec))
    everything = frozenset(weight.module for weight in weights_of(spec))
    with CalibrationStore.opened(tmp_path / "store", "key") as store:
        calibrate(source, precision, tokens, store)
        dense, few = (
            Judge(source, one, tokens, store)
            for one in (replace(precision, vocab="dense"), precision)
        )
        found = few.distance(everything).kld
        wanted = dense.of(logits(MemorySource(spec, with_rounded_tables(spec)), tokens)).kld
        assert abs(dense.distance(everything).kld) < 1e-7
    assert found == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1e-5


def with_rounded_tables(spec):
    """The checkpoint's tensors, its tables as int8 has them."""
    tensors = random_tensors(spec)
    for weight in weights_of(spec):
        if weight.kind == "table":
            name = weight.parts[0].name
            tensors[name] = rounded_rows(tensors[name].float(), torch.float32)
    return tensors


def test_embeddings_are_rounded_as_they_are_stored(tmp_path):
    artifact = export_tiny(tmp_path, in_fp32("int8-wo"))
    source = MemorySource(TINY, random_tensors(TINY))
    tokens = torch.arange(12).view(3, 4)
    rounded = embedded(source, tokens, torch.float32)
    with safe_open(artifact.path(WEIGHTS), framework="pt") as file:
        table = file.get_tensor("embed.weight") * file.get_tensor("embed.weight_scale")[:, None]
    torch.testing.assert_close(rounded, table[tokens], atol=0, rtol=1e-6)
    assert float((rounded - embedded(source, tokens)).abs().max()) > 1e-4


def test_a_dense_model_has_no_choice_of_its_vocabulary():
    with pytest.raises(BadInput, match="has its vocabulary in fp16"):
        precision_named("fp16", vocab="int8")
    with pytest.raises(BadInput, match="unknown --vocab 'int4'"):
        precision_named("int4", vocab="int4")
    assert precision_named("int4", vocab="int8").name == "int4-vocab-int8"
    assert precision_named("int4", "fp32", 64, "int8").name == "int4-b64-vocab-int8-fp32"
    QuantizationRequest().require_for(precision_named("int4", vocab="int8"))
