"""llama.cpp for `peers.py`, in its own environment: python peer_llama_cpp.py MODEL.gguf REQUEST.

REQUEST is JSON: `threads`, and `lengths` with `steps`, or `windows` and `logits` (files of numpy).
"""

import json
import resource
import sys
import time

import numpy as np
from llama_cpp import Llama

REPETITIONS, CONTEXT, BATCH = 3, 8192, 512


def main() -> None:
    """Print seconds and the peak as JSON, or write logits [W, N, V] of windows [W, N]."""
    path, request = sys.argv[1], json.loads(sys.argv[2])
    of_all = "windows" in request
    model = Llama(
        path,
        n_ctx=CONTEXT,
        n_batch=BATCH,
        n_ubatch=BATCH,
        n_threads=request["threads"],
        n_threads_batch=request["threads"],
        logits_all=of_all,
        verbose=False,
    )
    if of_all:
        windows = np.load(request["windows"])
        shape = (*windows.shape, model.n_vocab())
        found = np.lib.format.open_memmap(request["logits"], "w+", np.float32, shape)
        for window, logits in zip(windows, found, strict=True):
            model.reset()
            model.eval(window.tolist())
            logits[:] = model.scores[: len(window)]
        return
    dice = np.random.default_rng(time.time_ns())
    seconds = {}
    for length in request["lengths"]:
        took = []
        for _ in range(1 + REPETITIONS):
            prompt = dice.integers(100, model.n_vocab() - 100, length).tolist()
            model.reset()
            start = time.perf_counter()
            model.eval(prompt)
            took.append(time.perf_counter() - start)
        start = time.perf_counter()
        for token in dice.integers(100, model.n_vocab() - 100, request["steps"]).tolist():
            model.eval([token])
        seconds[f"decode @{length}"] = (time.perf_counter() - start) / request["steps"]
        seconds[f"prefill {length}"] = float(np.median(took[1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**seconds, "peak": peak}))


main()
