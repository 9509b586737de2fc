"""llama.cpp for `peers.py`: see `peer.py`."""

import json
import sys
import time

from llama_cpp import Llama
from peer import answer

CONTEXT, BATCH = 8192, 512
PATH, REQUEST = sys.argv[1], json.loads(sys.argv[2])
MODEL = Llama(
    PATH,
    n_ctx=CONTEXT,
    n_batch=BATCH,
    n_ubatch=BATCH,
    n_threads=REQUEST["threads"],
    n_threads_batch=REQUEST["threads"],
    logits_all="windows" in REQUEST,
    verbose=False,
)


def timed(prompt, steps):
    """Seconds of a prefill, and of a step of decode: what the tokens are does not matter."""
    tokens = prompt.tolist()
    MODEL.reset()
    start = time.perf_counter()
    MODEL.eval(tokens)
    filled = time.perf_counter()
    for i in range(steps):
        MODEL.eval([tokens[i % len(tokens)]])
    return filled - start, (time.perf_counter() - filled) / steps


def logits_of(window):
    """Logits [N, V] of a window [N]."""
    MODEL.reset()
    MODEL.eval(window.tolist())
    return MODEL.scores[: len(window)]


answer(REQUEST, MODEL.n_vocab(), timed, logits_of)
