"""OpenVINO GenAI for `peers.py`: see `peer.py`.

Prompts are fresh each time: the pipeline remembers prefixes. Logits are of the same model in
OpenVINO itself, whose defaults the pipeline keeps.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from peer import answer

FOLDER, REQUEST = sys.argv[1], json.loads(sys.argv[2])
SETTINGS = {"INFERENCE_NUM_THREADS": REQUEST["threads"]}
VOCAB = json.loads(Path(FOLDER, "config.json").read_text())["vocab_size"]


@functools.cache
def pipeline():
    """What generates."""
    return genai.LLMPipeline(FOLDER, "CPU", **SETTINGS)


@functools.cache
def model():
    """What shows its logits."""
    path = Path(FOLDER, "openvino_model.xml")
    return ov.Core().compile_model(path, "CPU", SETTINGS).create_infer_request()


def timed(prompt, steps):
    """Seconds to the first token, and of a step of decode."""
    chosen = genai.GenerationConfig()
    chosen.max_new_tokens = chosen.min_new_tokens = steps + 1
    chosen.ignore_eos, chosen.do_sample, chosen.apply_chat_template = True, False, False
    metrics = pipeline().generate(ov.Tensor(prompt[None]), chosen).perf_metrics
    return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3


def logits_of(window):
    """Logits [N, V] of a window [N]."""
    model().reset_state()
    model().infer(
        {
            "input_ids": window[None],
            "attention_mask": np.ones((1, len(window)), np.int64),
            "position_ids": np.arange(len(window))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
    )
    return model().get_tensor("logits").data[0]


answer(REQUEST, VOCAB, timed, logits_of)
