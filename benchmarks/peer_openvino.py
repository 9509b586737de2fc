"""OpenVINO GenAI for `peers.py`, in its own environment: python peer_openvino.py FOLDER REQUEST.

REQUEST is JSON: `threads`, and `lengths` with `steps`, or `windows` and `logits` (files of numpy).
Prompts are fresh each time: the pipeline remembers prefixes. Logits are of the same model in
OpenVINO itself, whose defaults the pipeline keeps.
"""

import json
import resource
import sys
import time

import numpy as np
import openvino as ov
import openvino_genai as genai

REPETITIONS, RESERVED = 3, 100  # the first and last tokens of a vocabulary are left out


def write_logits(folder: str, request: dict) -> None:
    """Logits [W, N, V] of windows [W, N], each a prefill."""
    settings = {"INFERENCE_NUM_THREADS": request["threads"]}
    compiled = ov.Core().compile_model(f"{folder}/openvino_model.xml", "CPU", settings)
    running = compiled.create_infer_request()
    windows = np.load(request["windows"])
    found = None
    for i, window in enumerate(windows):
        running.reset_state()
        running.infer(
            {
                "input_ids": window[None],
                "attention_mask": np.ones((1, len(window)), np.int64),
                "position_ids": np.arange(len(window))[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        logits = running.get_tensor("logits").data
        if found is None:
            shape = (*windows.shape, logits.shape[-1])
            found = np.lib.format.open_memmap(request["logits"], "w+", np.float32, shape)
        found[i] = logits[0]


def main() -> None:
    """Print seconds and the peak as JSON, or write logits [W, N, V] of windows [W, N]."""
    folder, request = sys.argv[1], json.loads(sys.argv[2])
    if "windows" in request:
        write_logits(folder, request)
        return
    pipeline = genai.LLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=request["threads"])
    with open(f"{folder}/config.json") as file:
        vocab = json.load(file)["vocab_size"]
    chosen = genai.GenerationConfig()
    chosen.max_new_tokens = chosen.min_new_tokens = request["steps"] + 1
    chosen.ignore_eos, chosen.do_sample, chosen.apply_chat_template = True, False, False
    dice = np.random.default_rng(time.time_ns())
    seconds = {}
    for length in request["lengths"]:
        took, steps = [], []
        for _ in range(1 + REPETITIONS):
            prompt = ov.Tensor(dice.integers(RESERVED, vocab - RESERVED, (1, length)))
            metrics = pipeline.generate(prompt, chosen).perf_metrics
            took.append(metrics.get_ttft().mean)
            steps.append(metrics.get_tpot().mean)
        seconds[f"prefill {length}"] = float(np.median(took[1:])) / 1e3
        seconds[f"decode @{length}"] = float(np.median(steps[1:])) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**seconds, "peak": peak}))


main()
