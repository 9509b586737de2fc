"""Faults planted in the parts that LLaMA's kin have are found by `llx check`, and named."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import llx
from llx.artifact import open_artifact
from llx.errors import GateFailed
from tests.bench.fidelity.planted import (
    changed_graph,
    changed_weights,
    node_of,
    swapped_weights,
    with_attribute,
    with_constant,
)
from tests.checkpoints import KIN_SPECS
from tests.conftest import export_tiny


def without_window(model):
    """Attention of the layer with a window reads the mask of the other."""
    nodes = {i: node_of(model, f"layers.{i}/attention") for i in (0, 1)}
    masks = {}
    for i, merged in nodes.items():
        attended = node_of(model, node_of(model, merged.input[0]).input[0])
        masks[i] = attended
    masks[1].input[3] = masks[0].input[3]


def wider_window(model):
    """A window of two positions more."""
    for constant in model.graph.initializer:
        values = np.frombuffer(constant.raw_data, np.int64) if constant.data_type == 7 else []
        if list(values) == [-7]:
            constant.raw_data = np.array([-9], np.int64).tobytes()


def times(factor):
    return lambda values: values * factor


def multiplier_of(name, factor):
    def edit(model):
        constant = node_of(model, name).input[1]
        with_constant(constant, times(factor))(model)

    return edit


def graph(edit, dialect="standard"):
    return lambda artifact: changed_graph(artifact, edit, dialect)


# What is planted, in which model, and what the error's line must say.
PLANTED = {
    "no window": (
        "window-of-one-layer",
        graph(without_window),
        ("layers.1 attention", "the model's window is not kept to"),
    ),
    "a wider window": ("window", graph(wider_window), ("layers.0 attention",)),
    "a wider window of ONNX Runtime's": (
        "window-of-16",
        graph(with_attribute("layers.0/attention", local_window_size=9), "ort"),
        ("its window is 9, and the model's 7",),
    ),
    "queries' norm for keys'": (
        "qk-norm",
        lambda one: swapped_weights(one, "layers.1.q_norm.weight", "layers.1.k_norm.weight"),
        ("layers.1.q_norm.weight of weights.safetensors is not the checkpoint's",),
    ),
    "a norm of keys that doubles": (
        "qk-norm-of-16",
        lambda one: changed_weights(one, layers__0__k_norm__weight=times(2)),
        ("layers.0.k_norm.weight",),
    ),
    "another multiplier of embeddings": (
        "scales",
        graph(multiplier_of("model/scale", 0.5)),
        ("multiplier of embeddings", "all of it is 0.5 times"),
    ),
    "another scale of scores": (
        "scales-of-16",
        graph(with_attribute("layers.1/attention", scale=0.25), "ort"),
        ("scaled by 0.25, and the model's by 0.2",),
    ),
    "a bias of k left out": (
        "qkv-bias",
        lambda one: changed_weights(one, layers__0__qkv__bias=times(0)),
        ("layers.0.qkv.bias",),
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            made[name] = export_tiny(tmp_path_factory.mktemp("kin"), spec=KIN_SPECS[name])
        return made[name]

    return of


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_of_a_part_is_found_and_named(exported, tmp_path, fault):
    name, plant, words = PLANTED[fault]
    copied = shutil.copytree(exported(name).folder, tmp_path / "artifact")
    planted = plant(open_artifact(copied))
    with pytest.raises(GateFailed) as failed:
        llx.check(planted, engines="ort")
    said = str(failed.value)
    assert all(word in said for word in words), said
