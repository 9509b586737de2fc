"""The numbers of a model that stand in its graph: each norm's epsilon, attention's scale, RoPE's.

They are read, not run: a wrong one may change so little that no comparison of logits sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from llx.llama.spec import LlamaSpec

Settings = Mapping[str, Mapping[str, Any]]
"""Numbers by their names, by the op that they are of: `layers.0.attn_norm/rms_norm`."""

# What an attribute is where it is left out: ONNX's specification of each op.
USUAL: Mapping[str, Mapping[str, Any]] = {
    "RMSNormalization": {"epsilon": np.float32(1e-5), "axis": -1, "stash_type": 1},
    "Attention": {"scale": None, "softcap": np.float32(0), "is_causal": 0},
    "GroupQueryAttention": {"scale": None, "local_window_size": -1},
    "RotaryEmbedding": {"interleaved": 0, "rotary_embedding_dim": 0},
}


def settings_of(path: Path) -> Settings:
    """What a graph says, which `Artifact.trusted_graph` has vouched for."""
    graph = onnx.load(path, load_external_data=False).graph
    scalars = {
        constant.name: numpy_helper.to_array(constant)[()]
        for constant in graph.initializer
        if not constant.dims and not constant.external_data
    }
    found: dict[str, dict[str, Any]] = {}
    for node in graph.node:
        for name, value in _of_node(node, scalars):
            found.setdefault(_owner(node), {})[name] = value
    return found


def _of_node(node: NodeProto, scalars: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if node.op_type in USUAL:
        usual = USUAL[node.op_type]
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for name, value in usual.items():
            one = given.get(name, value)
            yield name, np.float32(one) if isinstance(one, float) else one
        return
    # Decomposed: RMSNorm is x / √(mean(x²) + ε), and attention multiplies queries by its scale.
    constants = [scalars[name] for name in node.input if name in scalars]
    if not constants or not np.issubdtype(constants[0].dtype, np.floating):
        return
    if node.op_type == "Pow":
        yield "exponent", constants[0]
    elif node.op_type == "Add":
        yield "epsilon", constants[0]
    elif node.op_type == "Mul":
        yield "scale", constants[0]


def _owner(node: NodeProto) -> str:
    return "/".join(node.output[0].split("/")[:2])


def wrong_settings(settings: Settings, spec: LlamaSpec) -> Iterator[str]:
    """What is not the specification's, in the order of the graph's ops, as a clause each."""
    wanted: Mapping[str, tuple[str, Any]] = {
        "epsilon": ("its epsilon", spec.norm_eps),
        "exponent": ("its power", 2),
        "axis": ("its axis", -1),
        "stash_type": ("the type of its statistics", 1),
        "softcap": ("its cap of scores", 0),
        "is_causal": ("its own mask", 0),
        "interleaved": ("interleaved pairs", 0),
        "rotary_embedding_dim": ("the channels that it turns", spec.rotary_dim or 0),
    }
    for owner, named in settings.items():
        for name, value in named.items():
            words, right = wanted.get(name) or _of_owner(owner, name, spec)
            if value is not None and not same(value, right):
                yield f"{owner}: {words} is {float(value):g}, and the model's {right:g}"
    kinds = ("attn_norm", "mlp_norm", *(("q_norm", "k_norm") if spec.qk_norm else ()))
    norms = [f"layers.{i}.{kind}/rms_norm" for i in range(spec.layers) for kind in kinds]
    for norm in (*norms, "norm/rms_norm"):
        if "epsilon" not in settings.get(norm, {}):
            yield f"{norm}: it has no epsilon where llx writes one"


def _of_owner(owner: str, name: str, spec: LlamaSpec) -> tuple[str, float]:
    """A number that hangs on where it stands: attention's, or a multiplier of the model's."""
    module, _, op = owner.partition("/")
    if op == "attention":
        if name == "local_window_size":
            layer = int(module.removeprefix("layers."))
            return "its window", spec.kind_of(layer).window or -1
        return "its scale of scores", spec.score_scale
    if module == "logits":
        return "its multiplier", spec.logit_scale
    return "its multiplier", spec.embed_scale if module == "model" else spec.residual_scale


def same(value: Any, right: float) -> bool:
    """Whether a number is what its type makes of the right one."""
    return bool(value == np.asarray(right).astype(np.asarray(value).dtype))
