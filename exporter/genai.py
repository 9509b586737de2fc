"""What onnxruntime-genai needs to run an artifact: its configuration, and the graph as it feeds it.

That library knows no `logit_index`, which is a constant in its graph, and chooses the cache's
length itself. The files lie beside the artifact's own, for they read the same weights, which a link
would not be: ONNX refuses weights that have two names. No manifest vouches for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from llx.artifact import Artifact
from llx.errors import BadInput
from llx.files import write_whole
from llx.graphs.contract import (
    INPUT_IDS,
    LOGIT_INDEX,
    LOGITS,
    PAST,
    POSITION_IDS,
    PRESENT,
)
from llx.graphs.dialects.ort import groups
from llx.manifest import CHAT_TEMPLATE, Manifest

LIBRARY = "genai"  # as `--for` knows it
GRAPH, CONFIG, TOKENIZER_CONFIG = "genai.onnx", "genai_config.json", "tokenizer_config.json"
CHUNK = 256  # tokens of a prompt that are given at a time: the graph takes 512 at most


def require_library(name: str | None, graphs_only: bool = False) -> None:
    """Raise `BadInput` for a library that nothing is written for, before anything is exported."""
    if name is not None and name != LIBRARY:
        raise BadInput(f"nothing is written for {name!r}", f"choose --for {LIBRARY}")
    if name is not None and graphs_only:
        raise BadInput(
            f"--for {LIBRARY} needs weights, which --weights none leaves out", "name a checkpoint"
        )


def write_genai(artifact: Artifact) -> Path:
    """Write what that library needs into the artifact's folder, which it then opens; return it.

    Raises `BadInput` where the artifact has no tokenizer, whose end of text that library must know.
    """
    manifest = artifact.manifest
    if manifest.text is None or not manifest.text.eos_ids:
        raise BadInput(
            f"{artifact.folder} has no tokenizer, or none that says where text ends",
            "export a checkpoint that has one, or leave --for out",
        )
    template = artifact.read(CHAT_TEMPLATE).decode() if artifact.has(CHAT_TEMPLATE) else None
    write_whole(artifact.folder / GRAPH, graph_of(artifact))
    for name, value in (
        (TOKENIZER_CONFIG, tokenizer_config_of(manifest, template)),
        (CONFIG, config_of(manifest)),  # without it there is nothing that opens
    ):
        write_whole(artifact.folder / name, (json.dumps(value, indent=1) + "\n").encode())
    return artifact.folder


def graph_of(artifact: Artifact) -> bytes:
    """The graph `ort` with the logits of the last token alone, and a cache of any length."""
    model = onnx.load_model_from_string(artifact.read("ort.onnx"))
    graph = model.graph
    (index,) = (given for given in graph.input if given.name == LOGIT_INDEX)
    graph.input.remove(index)
    graph.initializer.append(numpy_helper.from_array(np.array([[-1]], np.int64), LOGIT_INDEX))
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name == LOGITS:
            dims[1].dim_value = 1  # by which that library knows that only the last are given
        elif value.name.startswith((PAST, PRESENT)) and groups(artifact.manifest.spec.head_dim):
            dims[2].dim_param = "S"
    data: bytes = model.SerializeToString()
    return data


def config_of(manifest: Manifest) -> dict[str, Any]:
    """genai_config.json: sizes, names, and the greedy search that a program may change."""
    spec, capacity = manifest.spec, manifest.contract.limits.capacity
    assert manifest.text is not None
    ends = list(manifest.text.eos_ids)
    return {
        "model": {
            "type": "llama",
            "vocab_size": spec.vocab,
            "context_length": capacity,
            "bos_token_id": ends[0],
            "eos_token_id": ends,
            "pad_token_id": ends[0],
            "decoder": {
                "filename": GRAPH,
                "session_options": {"log_id": "llx", "provider_options": []},
                "head_size": spec.head_dim,
                "hidden_size": spec.dim,
                "num_attention_heads": spec.heads,
                "num_hidden_layers": spec.layers,
                "num_key_value_heads": spec.kv_heads,
                "inputs": {
                    INPUT_IDS: INPUT_IDS,
                    POSITION_IDS: POSITION_IDS,
                    "past_key_names": f"{PAST}.%d.key",
                    "past_value_names": f"{PAST}.%d.value",
                },
                "outputs": {
                    LOGITS: LOGITS,
                    "present_key_names": f"{PRESENT}.%d.key",
                    "present_value_names": f"{PRESENT}.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": capacity,
            "past_present_share_buffer": True,
            "chunk_size": min(CHUNK, capacity),
        },
    }


def tokenizer_config_of(manifest: Manifest, template: str | None) -> dict[str, Any]:
    """tokenizer_config.json: what that library reads beside tokenizer.json."""
    text = manifest.text
    assert text is not None
    named = {"bos_token": text.bos_token, "eos_token": text.eos_token, "chat_template": template}
    known = {name: value for name, value in named.items() if value}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **known}
