"""What the peers' scripts share: one loop that times, and one that writes logits. numpy alone.

Each script is run by `peers.py` as `python SCRIPT MODEL REQUEST`, in an environment of its own.
REQUEST is JSON: `threads`, and `lengths` with `steps`, or `windows` and `logits` (files of numpy).
"""

import json
import resource
import time

import numpy as np

REPETITIONS, RESERVED = 3, 100  # the first and last tokens of a vocabulary are left out


def answer(request, vocab, timed, logits_of):
    """Print medians of seconds and the peak in bytes as JSON, or write logits [W, N, V].

    `timed(prompt, steps)` takes a fresh prompt into an empty cache: the seconds of its prefill,
    and of each of so many steps of decode behind it. `logits_of(window)` gives [N, V].
    """
    if "windows" in request:
        windows = np.load(request["windows"])  # [W, N]
        shape = (*windows.shape, vocab)
        found = np.lib.format.open_memmap(request["logits"], "w+", np.float32, shape)
        for window, logits in zip(windows, found, strict=True):
            logits[:] = logits_of(window)
        return
    dice = np.random.default_rng(time.time_ns())
    seconds = {}
    for length in request["lengths"]:
        runs = [
            timed(dice.integers(RESERVED, vocab - RESERVED, length), request["steps"])
            for _ in range(1 + REPETITIONS)
        ]
        prefill, step = np.median(runs[1:], axis=0)  # the first one warms up
        seconds |= {f"prefill {length}": prefill, f"decode @{length}": step}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**seconds, "peak": peak}))
