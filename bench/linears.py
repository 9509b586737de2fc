"""Every quantized linear layer of a graph by itself: its output against the formula.

Logits cannot show whether an int8 graph is what it should be. Where one outlier decides a scale, an
input that falls to the other side of a rounding moves by a large step, and two right engines give
logits as far apart as the logits are wide. One layer given the same input has no such excuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from safetensors import safe_open

from llx.artifact import WEIGHTS, Artifact
from llx.bench.sessions.ort import NUMPY_DTYPES, session_options
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, POSITION_IDS

TOKENS = 24
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class LinearParity:
    """How far a quantized layer is from what its weights and scales say.

    `rounding`: the largest distance of an int8 input from the value that it stands for, in steps;
    half of one is what rounding costs. `product`: the largest difference from numpy's product of
    the int8 values, as a share of the largest output.
    """

    module: str
    rounding: float
    product: float


def linear_parities(artifact: Artifact, dialect: str = "standard") -> Iterator[LinearParity]:
    """Each quantized linear layer in ONNX Runtime, on random tokens."""
    model = onnx.load(artifact.graph(dialect), load_external_data=False)
    probes = _probes(model)
    names = [name for probe in probes.values() for name in probe]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options()
    options.add_session_config_entry(FOLDER_OPTION, str(artifact.folder))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = iter(session.run(names, _random_step(artifact)))
    with safe_open(artifact.path(WEIGHTS), framework="np") as file:
        for module in probes:
            x, quantized, product = (next(found).astype(np.float32) for _ in range(3))
            step = np.float32(file.get_tensor(f"{module}.input_scale"))
            weight = file.get_tensor(f"{module}.weight").astype(np.float32)
            scale = step * file.get_tensor(f"{module}.weight_scale").astype(np.float32)
            wanted = (quantized @ weight) * scale
            yield LinearParity(
                module,
                rounding=float(np.abs(quantized - np.clip(x / step, -128, 127)).max()),
                product=float(np.abs(product - wanted).max() / np.abs(wanted).max()),
            )


def _probes(model: onnx.ModelProto) -> dict[str, tuple[str, str, str]]:
    """Of each module with a quantized input: the names of that input, its int8 and the product."""
    users = {name: node for node in model.graph.node for name in node.input}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            module = node.input[1].removesuffix(".input_scale")
            product = users[users[node.output[0]].output[0]]
            found[module] = (node.input[0], node.output[0], product.output[0])
    return found


def _random_step(artifact: Artifact) -> dict[str, NDArray[Any]]:
    """Inputs of a prefill of random tokens into an empty cache."""
    contract = artifact.manifest.contract
    count = min(TOKENS, contract.limits.max_new_tokens)
    feeds: dict[str, NDArray[Any]] = {
        INPUT_IDS: np.random.default_rng(0).integers(0, contract.limits.vocab, (1, count)),
        POSITION_IDS: np.arange(count, dtype=np.int64)[None],
        LOGIT_INDEX: np.array([[count - 1]], dtype=np.int64),
    }
    for name, (dtype, (_, *sizes)) in contract.inputs().items():
        if name not in feeds:
            feeds[name] = np.zeros((1, *map(int, sizes)), NUMPY_DTYPES[dtype])
    return feeds
