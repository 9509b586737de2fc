"""onnxruntime-genai for `peers.py`, in its own environment: python peer_genai.py FOLDER REQUEST.

REQUEST is JSON: `threads`, and `lengths` with `steps`, or `windows` and `logits` (files of numpy).
"""

import json
import resource
import sys
import time

import numpy as np
import onnxruntime_genai as og

REPETITIONS, RESERVED = 3, 100  # the first and last tokens of a vocabulary are left out


def opened(folder: str, threads: int) -> og.Model:
    """The model on that many threads."""
    config = og.Config(folder)
    config.overlay(
        json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    )
    return og.Model(config)


def generator_of(model: og.Model, length: int) -> og.Generator:
    """An empty cache with room for so many tokens."""
    chosen = og.GeneratorParams(model)
    chosen.set_search_options(max_length=length, min_length=length, do_sample=False)
    return og.Generator(model, chosen)


def main() -> None:
    """Print seconds and the peak as JSON, or write logits [W, N, V] of windows [W, N]."""
    folder, request = sys.argv[1], json.loads(sys.argv[2])
    model = opened(folder, request["threads"])
    with open(f"{folder}/genai_config.json") as file:
        vocab = json.load(file)["model"]["vocab_size"]
    if "windows" in request:
        windows = np.load(request["windows"])
        found = np.lib.format.open_memmap(
            request["logits"], "w+", np.float32, (*windows.shape, vocab)
        )
        for window, logits in zip(windows, found, strict=True):
            generator = generator_of(model, len(window) + 1)
            generator.append_tokens(window[None].astype(np.int32))
            logits[:] = generator.get_output("logits")[0]
        return
    dice = np.random.default_rng(time.time_ns())
    seconds = {}
    for length in request["lengths"]:
        took, steps = [], []
        for _ in range(1 + REPETITIONS):
            generator = generator_of(model, length + request["steps"] + 2)
            prompt = dice.integers(RESERVED, vocab - RESERVED, (1, length)).astype(np.int32)
            start = time.perf_counter()
            generator.append_tokens(prompt)
            generator.generate_next_token()
            took.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(request["steps"]):
                generator.generate_next_token()
            steps.append((time.perf_counter() - start) / request["steps"])
            del generator
        seconds[f"prefill {length}"] = float(np.median(took[1:]))
        seconds[f"decode @{length}"] = float(np.median(steps[1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**seconds, "peak": peak}))


main()
