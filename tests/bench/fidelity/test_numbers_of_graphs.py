"""A number that stands in a graph and is not the model's is read, and named as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import llx
from llx.api.check import findings
from llx.bench.fidelity.rope_table_causes import thetas_of
from llx.checks import Checked
from llx.errors import GateFailed
from llx.graphs.settings import settings_of, wrong_settings
from llx.llama.rope import rope_tables
from llx.llama.spec import RopeSpec
from llx.precision import PRECISIONS
from tests.bench.fidelity.planted import changed_graph, node_of, with_attribute
from tests.bench.fidelity.test_causes import copied
from tests.checkpoints import TINY
from tests.conftest import export_tiny

NORM, ATTENTION = "layers.1.mlp_norm/rms_norm", "layers.0/attention/Attention_17.0"
CASES = {
    **{
        f"epsilon {eps:g}": (NORM, {"epsilon": eps}, f"its epsilon is {eps:g}, and the model's 1e")
        for eps in (3e-1, 1e-2, 5e-3, 1e-3, 1.23e-4)
    },
    **{
        f"scale {scale:g}": (ATTENTION, {"scale": scale}, f"scaled by {scale:g}, and the model's")
        for scale in (0.4, 0.3, 0.2, 0.15811)
    },
    "no scale": (ATTENTION, {"scale": 1.0}, "scores are not scaled"),
    "a cap": (ATTENTION, {"softcap": 1.5}, "scores are capped at 1.5, and the model's are not"),
    "a mask of its own": (ATTENTION, {"is_causal": 1}, "is_causal masks by the place in the step"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_number_of_one_op_is_named_as_it_is(tiny, tmp_path, case):
    output, attributes, said = CASES[case]
    planted = changed_graph(copied(tiny, tmp_path), with_attribute(output, **attributes))
    with pytest.raises(GateFailed) as failed:
        llx.check(planted, engines="ort")
    assert said in str(failed.value)


def primitive_constant(op_type, scope, value):
    """One node of the decomposed graph reads another constant."""

    def edit(model: onnx.ModelProto) -> None:
        scalars = {c.name: c for c in model.graph.initializer if not c.dims}
        node = next(
            n
            for n in model.graph.node
            if n.op_type == op_type and n.name.startswith(scope) and set(n.input) & set(scalars)
        )
        at = next(i for i, name in enumerate(node.input) if name in scalars)
        like = numpy_helper.to_array(scalars[node.input[at]])
        made = numpy_helper.from_array(np.array(value, like.dtype), "planted")
        model.graph.initializer.append(made)
        node.input[at] = "planted"

    return edit


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (primitive_constant("Add", "layers.0.attn_norm", 7e-3), "its epsilon is 0.007"),
        (primitive_constant("Mul", "layers.1/attention", 0.25), "scaled by 0.25"),
    ],
)
def test_so_is_one_of_the_decomposed_graph(tiny, tmp_path, planted, said):
    artifact = changed_graph(copied(tiny, tmp_path), planted, "primitive")
    with pytest.raises(GateFailed) as failed:
        llx.check(artifact, engines="ort")
    assert said in str(failed.value)


SMALL = {
    "epsilon": (
        "standard",
        with_attribute(NORM, epsilon=9.9e-6),
        f"{NORM}: its epsilon is 9.9e-06",
    ),
    "of the last": ("standard", with_attribute("norm/rms_norm", epsilon=0.0), "its epsilon is 0"),
    "scale": ("standard", with_attribute(ATTENTION, scale=0.316228), "its scale of scores"),
    "statistics": ("standard", with_attribute(NORM, stash_type=10), "type of its statistics"),
    "decomposed": (
        "primitive",
        primitive_constant("Add", "layers.1.attn_norm", 1.01e-5),
        "layers.1.attn_norm/rms_norm: its epsilon is 1.01e-05, and the model's 1e-05",
    ),
}


@pytest.mark.parametrize("case", SMALL)
def test_one_that_changes_next_to_nothing_is_seen_all_the_same(tiny, tmp_path, case):
    dialect, edit, said = SMALL[case]
    planted, record = (
        changed_graph(copied(tiny, tmp_path), edit, dialect),
        Checked(artifact="", precision=""),
    )
    with pytest.raises(GateFailed) as failed:
        list(findings(planted, record=record))
    assert said in str(failed.value)
    assert not any(line.startswith(f"{dialect}: ") and "numbers" in line for line in record.lines)


def test_a_norm_without_an_epsilon_is_seen(tiny, tmp_path):
    def edit(model):
        node_of(model, NORM).output[0] = "elsewhere"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = "elsewhere" if name == NORM else name

    planted = changed_graph(copied(tiny, tmp_path), edit)
    found = list(wrong_settings(settings_of(planted.trusted_graph("standard")), TINY))
    assert f"{NORM}: it has no epsilon where llx writes one" in found


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_numbers_of_what_llx_writes_are_right(tmp_path, precision):
    artifact = export_tiny(tmp_path, precision)
    for dialect in artifact.dialects:
        assert not list(wrong_settings(settings_of(artifact.graph(dialect)), TINY))


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 123456.0, 31415.9, 7.5, 2e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_theta_is_read_out_of_what_was_turned(theta, dtype):
    """Of halves to as many digits as they have."""
    cos, sin = rope_tables(RopeSpec(theta=theta), TINY.head_dim, np.arange(96))
    found = thetas_of(cos.astype(dtype), sin.astype(dtype), TINY)
    near = min(found, key=lambda one: abs(one - theta))
    assert near == pytest.approx(theta, rel=1e-9 if dtype == np.float32 else 1e-3)
