"""Faults planted in the files of an artifact are found by `llx check`, and named."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

import llx
from llx.api.check import findings
from llx.artifact import open_artifact
from llx.bench.fidelity.case import Case
from llx.bench.fidelity.causes import cause_of
from llx.bench.fidelity.localise import judged
from llx.bench.fidelity.oracle import Arithmetic, rms_norm
from llx.bench.fidelity.sites import Site
from llx.bench.fidelity.taps import Step
from llx.bench.sessions.trt import TrtSession
from llx.checks import Checked
from llx.llama.rope import rope_tables
from llx.llama.spec import RopeSpec
from tests.bench.fidelity.planted import (
    both,
    changed_graph,
    changed_weights,
    gathered,
    node_of,
    shifted_positions,
    swapped_weights,
    with_attribute,
    with_constant,
    with_input,
    with_op,
)
from tests.bench.sessions.test_engine_choice import artifact as on_doubles  # noqa: F401
from tests.bench.sessions.test_engine_choice import built
from tests.checkpoints import LLAMA3, MQA, SPECS, TINY, random_tensors, write_checkpoint
from tests.conftest import export_tiny

H, HKV, D = TINY.heads, TINY.kv_heads, TINY.head_dim
Q, K = TINY.q_dim, TINY.kv_dim


def weights(**changes):
    return lambda artifact: changed_weights(artifact, **changes)


def graph(*edits):
    return lambda artifact: changed_graph(artifact, both(*edits))


def tables(spec, rope):
    cos, sin = rope_tables(rope, spec.head_dim, np.arange(spec.context))
    return weights(rope__cos=lambda _: cos, rope__sin=lambda _: sin)


def heads(first, order):
    """Along the outputs, the heads from a channel on in another order."""

    def change(values):
        end = first + D * len(order)
        part = values[..., first:end].reshape(*values.shape[:-1], len(order), D)
        values[..., first:end] = part[..., order, :].reshape(values[..., first:end].shape)
        return values

    return change


def interleaved(values):
    order = np.arange(D).reshape(2, -1).T.ravel()
    part = values[..., : Q + K].reshape(*values.shape[:-1], H + HKV, D)
    values[..., : Q + K] = part[..., order].reshape(values[..., : Q + K].shape)
    return values


def times(factor, *at):
    def change(values):
        values[at] = values[at] * factor
        return values

    return change


def mask(node):
    return node.name.startswith("mask")


def rope(node):
    return node.op_type == "RotaryEmbedding"


def from_slot_zero(model):
    name = "planted.zero"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), name))
    node_of(model, "present.1.value").input[2] = name


def embedded_twice(artifact):
    with artifact.opened_weights("np") as file:
        table = file.get_tensor("embed.weight").copy()
    return changed_weights(artifact, unembed__weight=lambda _: table)


BY_GROUP = sorted(range(H), key=lambda head: (head % HKV, head))
ALL = slice(None)
# What is planted, in which model, and what the error's line must say.
PLANTED = {
    "RoPE of pairs, q": (
        "gqa",
        graph(with_attribute("layers.1/rope", interleaved=1)),
        ("layers.1 RoPE of q", "interleaved pairs, where the model turns halves"),
    ),
    "RoPE of pairs, k": (
        "llama3-rope",
        graph(with_attribute("layers.0/rope_2", interleaved=1)),
        ("layers.0 RoPE of k", "interleaved pairs, where the model turns halves"),
    ),
    "weights of pairs": (
        "gqa",
        weights(layers__1__qkv__weight=interleaved),
        ("layers.1.qkv.weight", "q and k are permuted for RoPE of interleaved pairs"),
    ),
    "theta too large": (
        "gqa",
        tables(TINY, RopeSpec(theta=500000.0)),
        ("rope.cos", "theta 500000, and the model's is 10000"),
    ),
    "theta too small": (
        "mqa-theta-500k",
        tables(MQA, RopeSpec()),
        ("rope.cos", "theta 10000, and the model's is 500000"),
    ),
    "no scaling": (
        "llama3-rope",
        tables(LLAMA3, RopeSpec(theta=LLAMA3.rope.theta)),
        ("rope.cos", "llama3 scaling is missing"),
    ),
    "another scaling": (
        "llama3-rope",
        tables(LLAMA3, replace(LLAMA3.rope, factor=32.0)),
        ("rope.cos", "scaled by 32, and the model's by 8"),
    ),
    "RoPE of decode": (
        "gqa",
        graph(shifted_positions(rope, decode=True, by=-1)),
        ("in decode", "RoPE turns one position early"),
    ),
    "a mask one short": (
        "gqa",
        graph(with_op("LessOrEqual", "Less")),
        ("layers.0 attention", "the mask ends one position early"),
    ),
    "a mask one further": (
        "gqa",
        graph(with_constant("slots", lambda slots: slots - 1)),
        ("layers.0 attention", "one position late, and shows the next token"),
    ),
    "a mask of prefill": (
        "biased",
        graph(shifted_positions(mask, decode=False, by=1)),
        ("in prefill", "one position late, and shows the next token"),
    ),
    "a mask of decode": (
        "gqa",
        graph(shifted_positions(mask, decode=True, by=-1)),
        ("ort-standard is off", "in decode", "the mask ends one position early"),
    ),
    "written elsewhere": (
        "gqa",
        graph(from_slot_zero),
        ("layers.1 cache of values", "on a filled cache", "from slot 0 on, not from 16"),
    ),
    "heads of q": (
        "gqa",
        weights(layers__1__qkv__weight=heads(0, [1, 0, 2, 3, 4, 5])),
        ("layers.1.qkv.weight", "the heads of q are in another order"),
    ),
    "heads of k": (
        "biased",
        weights(layers__0__qkv__weight=heads(Q, [1, 0])),
        ("layers.0.qkv.weight", "the heads of k are in another order"),
    ),
    "biases of heads": (
        "biased",
        weights(layers__0__qkv__bias=heads(0, [5, 0, 1, 2, 3, 4])),
        ("layers.0.qkv.bias", "the biases of q are in another order"),
    ),
    "biases": (
        "biased",
        weights(layers__1__down__bias=lambda bias: bias[::-1]),
        ("layers.1.down.bias", "its values are in another order"),
    ),
    "gate and up": (
        "biased",
        weights(layers__1__gate_up__bias=lambda bias: np.roll(bias, TINY.ffn_dim)),
        ("layers.1.gate_up.bias", "gate and up stand in one another's place"),
    ),
    "heads of the cache": (
        "gqa",
        graph(gathered("layers.1/kv_update_2/Transpose_39.0", [1, 0], 1)),
        ("layers.1 cache of values", "heads of the cache's values are in another order"),
    ),
    "other KV heads": (
        "gqa",
        graph(
            gathered("layers.0/attention/Transpose_16.0", BY_GROUP, 1),
            gathered("layers.0/attention/Attention_17.0", [BY_GROUP.index(h) for h in range(H)], 1),
        ),
        ("layers.0 attention", "reads KV head h mod Hkv"),
    ),
    "a head that is tied": (
        "gqa",
        embedded_twice,
        ("unembed.weight", "it holds the values of embed.weight: tied"),
    ),
    "tables exchanged": (
        "gqa",
        lambda artifact: swapped_weights(artifact, "embed.weight", "unembed.weight"),
        ("embed.weight", "it holds the values of unembed.weight", "exchanged"),
    ),
    "a tied table missing": (
        "mha-tied",
        weights(embed__weight=np.zeros_like),
        ("embed.weight", "the table is missing: it is all zeros"),
    ),
    "an output channel": (
        "gqa",
        weights(layers__1__down__weight=times(64, ALL, 7)),
        ("layers.1.down.weight", "output channel 7 of it is 64 times"),
    ),
    "an input channel": (
        "gqa",
        weights(layers__0__down__weight=times(64, 7)),
        ("layers.0.down.weight", "input channel 7 of it is 64 times"),
    ),
    "a scale": (
        "mha-tied",
        weights(layers__1__gate_up__weight=times(1.5, ALL)),
        ("layers.1.gate_up.weight", "all of it is 1.5 times the checkpoint's"),
    ),
    "another layer's": (
        "gqa",
        lambda artifact: swapped_weights(artifact, "layers.0.o.weight", "layers.1.o.weight"),
        ("layers.0.o.weight", "the values of layers.1.o.weight"),
    ),
    "another norm's": (
        "gqa",
        lambda artifact: swapped_weights(artifact, "layers.0.attn_norm.weight", "norm.weight"),
        ("layers.0.attn_norm.weight", "the values of norm.weight"),
    ),
    "no residual": (
        "gqa",
        graph(with_input("layers.1/add", 0, "layers.1.o/linear")),
        ("layers.1 sum after attention", "the branch twice, and no residual"),
    ),
    "SiLU of up": (
        "gqa",
        graph(
            with_input("layers.1/silu", 0, "layers.1/split_2.1"),
            with_input("layers.1/silu/Sigmoid_51.0", 0, "layers.1/split_2.1"),
        ),
        ("layers.1 SiLU", "SiLU is of up"),
    ),
    "a bit": (
        "gqa",
        weights(layers__1__o__weight=times(-2, 3, 4)),
        ("layers.1.o.weight", "1 of its 2160 values differs"),
    ),
}
QUICK = ("a mask of decode", "heads of q", "RoPE of pairs, q")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """Artifacts by model and precision, each exported once."""
    made = {("gqa", "fp32"): tiny}

    def one(name, precision):
        if (name, precision) not in made:
            folder = tmp_path_factory.mktemp("planted")
            made[name, precision] = export_tiny(folder, precision, SPECS[name])
        return made[name, precision]

    return one


def copied(artifact, tmp_path):
    shutil.copytree(artifact.folder, tmp_path / "copy")
    return open_artifact(tmp_path / "copy")


def failure(artifact, engine="ort"):
    with pytest.raises(llx.GateFailed) as failed:
        llx.check(artifact, engines=[engine])
    return str(failed.value)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=slow)])
@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in QUICK else slow) for fault in PLANTED]
)
def test_a_planted_fault_is_found_and_named(exported, tmp_path, fault, precision):
    name, plant, parts = PLANTED[fault]
    said = failure(plant(copied(exported(name, precision), tmp_path)))
    for part in parts:
        assert part in said, said
    assert said.endswith(": export again with --overwrite")


@pytest.mark.parametrize("fault", [pytest.param("a mask of decode"), pytest.param("a scale")])
def test_it_is_found_behind_an_engine_of_tensorrt(on_doubles, fault):  # noqa: F811
    """Which shows nothing in between: its graph is looked at in ONNX Runtime instead."""
    _, plant, parts = PLANTED[fault]
    planted = plant(on_doubles)
    built(planted)
    said = failure(planted, "trt")
    for part in parts:
        assert part.replace("ort-standard is", "trt is") in said
    if fault == "a mask of decode":
        assert "standard.onnx, run in ONNX Runtime op by op, since the engine shows no" in said


def test_an_engine_that_computes_otherwise_than_its_graph_is_told_apart(on_doubles, monkeypatch):  # noqa: F811
    built(on_doubles)
    assert any("parity of trt" in line for line in llx.check(on_doubles, engines=["trt"]))
    logits = TrtSession.logits
    monkeypatch.setattr(TrtSession, "logits", lambda self: logits(self) * np.float32(1.5))
    said = failure(on_doubles, "trt")
    assert "every op of standard.onnx is right by itself" in said
    assert "llx build --overwrite" in said


MLP, NORM = "model.layers.0.mlp.", "model.layers.1.input_layernorm.weight"
HOLDS = "fp16 cannot hold it: it reaches"
# What weights are multiplied by, and what is said of them in fp16.
OVERFLOWING = {
    "a residual": (
        {f"{MLP}down_proj.weight": 4e4, f"{MLP}up_proj.weight": 50.0},
        ("layers.0.down", HOLDS),
    ),
    "a weight": (
        {f"{MLP}down_proj.weight": 1e6},
        ("layers.0.down", "its weight holds values beyond 65504"),
    ),
    "a norm": (
        {NORM: 4e4} | {f"model.layers.1.self_attn.{part}_proj.weight": 1 / 4e4 for part in "qkv"},
        ("layers.1.attn_norm", HOLDS),
    ),
}


@slow
@pytest.mark.parametrize("where", OVERFLOWING)
def test_what_fp16_cannot_hold_is_named_and_what_to_do_is_true(tmp_path, where):
    factors, parts = OVERFLOWING[where]
    tensors = random_tensors(TINY)
    for name, factor in factors.items():
        tensors[name] *= factor
    folder = write_checkpoint(tmp_path / "checkpoint", TINY, tensors)
    artifact = llx.export(weights=folder, precision="fp16", output=tmp_path / "fp16")
    found = failure(artifact, "torch")  # ONNX Runtime may keep in fp32 what overflows
    for part in parts:
        assert part in found
    assert found.endswith("export with --precision bf16 or fp32")
    for precision in ("bf16", "fp32"):
        other = llx.export(weights=folder, precision=precision, output=tmp_path / precision)
        assert llx.check(other)


SCALES = {
    "a scale of k and v, and of q": ("qkv", ALL, 2.0, "all of q of it is"),
    "a scale of gate": ("gate_up", slice(0, TINY.ffn_dim), 0.5, "all of gate of it is"),
    "a scale of down": ("down", ALL, 2.0, "all of it is"),
    "a scale of o": ("o", ALL, 3.0, "all of it is"),
    "a channel of o": ("o", 5, 8.0, "output channel 5 of it is"),
}


@slow
@pytest.mark.parametrize("fault", SCALES)
@pytest.mark.parametrize("precision", ["int8", "int8-wo", "int4"])
def test_a_scale_of_a_quantized_layer_is_found_though_the_layer_agrees_with_it(
    exported, tmp_path, precision, fault
):
    module, where, factor, said = SCALES[fault]
    name = f"layers__1__{module}__weight_scale"
    planted = changed_weights(
        copied(exported("biased", precision), tmp_path), **{name: times(factor, ..., where)}
    )
    found = failure(planted)
    assert f"layers.1.{module}.weight" in found
    assert said in found
    told = float(re.search(r"is ([\d.]+) times the checkpoint's, folds aside", found)[1])
    assert told == pytest.approx(factor, rel=0.1)


def test_squares_that_overflow_in_a_norm_are_named():
    """No runtime here computes so: the kernel is played."""
    a, x = Arithmetic.of("fp16"), np.full((3, 36), 2.0)
    x[1, 4] = 300.0
    weight = np.ones(36)
    expected = rms_norm(a, x, weight, TINY.norm_eps)
    found = expected.wanted.astype(np.float16)
    found[1] = 0  # 1/√∞
    step = Step("prefill", np.arange(3), np.arange(3))
    site = Site("rms_norm", "RMSNorm", 0, step, found, (x,), "layers.0.attn_norm")
    case = Case(judged(site, expected), TINY, lambda name: weight, a)
    cause = cause_of(case)
    assert "the squares of its inputs, up to 300, overflow" in cause.words
    assert cause.remedy == "export with --precision bf16 or fp32"


def test_where_no_known_cause_fits_it_says_what_was_ruled_out(exported, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.15, (TINY.dim, 2 * TINY.ffn_dim))
    planted = changed_weights(
        copied(exported("gqa", "fp32"), tmp_path), layers__1__gate_up__weight=lambda _: noise
    )
    said = failure(planted)
    assert "layers.1.gate_up.weight" in said
    assert "no known cause explains it, ruled out:" in said
    assert "one scale" in said


@pytest.fixture
def nothing_noted(monkeypatch):
    """Nobody knows where a checkpoint lay before."""
    monkeypatch.setattr("llx.manifest.noted_places", lambda key: [])


@pytest.mark.usefixtures("nothing_noted")
def test_without_the_checkpoint_graphs_are_checked_and_weights_are_said_not_to_be(
    exported, tmp_path
):
    artifact = copied(exported("gqa", "fp32"), tmp_path)
    record = replace(artifact.manifest.source, path=str(tmp_path / "gone"))
    alone = replace(artifact, manifest=replace(artifact.manifest, source=record))
    lines = llx.check(alone, engines=["ort"])
    assert any("weights: not compared" in line and "gone is not here" in line for line in lines)
    edited = changed_graph(artifact, with_attribute("layers.1/rope", interleaved=1))
    alone = replace(edited, manifest=replace(edited.manifest, source=record))
    assert "interleaved pairs" in failure(alone)


@pytest.mark.usefixtures("nothing_noted")
def test_a_captured_reference_stands_in_for_the_checkpoint(judged, tmp_path):
    artifact = copied(judged, tmp_path)
    record = replace(artifact.manifest.source, path=str(tmp_path / "gone"))
    checked = Checked(artifact="", precision="")
    alone = replace(artifact, manifest=replace(artifact.manifest, source=record))
    list(findings(alone, engines=["ort"], record=checked))
    assert checked.reference == "the captured reference.safetensors"
    planted = changed_weights(artifact, layers__1__o__weight=times(1.5, ALL))
    alone = replace(planted, manifest=replace(planted.manifest, source=record))
    said = failure(alone)
    assert "own weights is off from reference.safetensors" in said
    assert "shows only beside the checkpoint" in said


def test_the_error_over_depth_is_recorded_also_where_it_fails(exported, tmp_path):
    planted = changed_graph(
        copied(exported("gqa", "fp32"), tmp_path), with_attribute("layers.1/rope", interleaved=1)
    )
    record = Checked(artifact="", precision="")
    with pytest.raises(llx.GateFailed):
        list(findings(planted, engines=["ort"], record=record))
    assert [depth.layer for depth in record.depth] == [-1, 0, 1]
    early, late = record.depth[1], record.depth[2]
    assert early.error < 10 * early.explained
    assert late.error > 1000 * late.explained
    assert (record.fault.layer, record.fault.phase) == (1, "prefill")
    assert record.failed == failure(planted)
