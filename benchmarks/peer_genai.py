"""onnxruntime-genai for `peers.py`: see `peer.py`."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from peer import answer

FOLDER, REQUEST = sys.argv[1], json.loads(sys.argv[2])
CONFIG = og.Config(FOLDER)
OPTIONS = {"intra_op_num_threads": REQUEST["threads"]}
CONFIG.overlay(json.dumps({"model": {"decoder": {"session_options": OPTIONS}}}))
MODEL = og.Model(CONFIG)
VOCAB = json.loads(Path(FOLDER, "genai_config.json").read_text())["model"]["vocab_size"]


def generator_of(length):
    """An empty cache with room for so many tokens."""
    chosen = og.GeneratorParams(MODEL)
    chosen.set_search_options(max_length=length, min_length=length, do_sample=False)
    return og.Generator(MODEL, chosen)


def timed(prompt, steps):
    """Seconds of a prefill and its first token, and of a step of decode."""
    generator = generator_of(len(prompt) + steps + 2)
    start = time.perf_counter()
    generator.append_tokens(prompt[None].astype(np.int32))
    generator.generate_next_token()
    filled = time.perf_counter()
    for _ in range(steps):
        generator.generate_next_token()
    return filled - start, (time.perf_counter() - filled) / steps


def logits_of(window):
    """Logits [N, V] of a window [N]."""
    generator = generator_of(len(window) + 1)
    generator.append_tokens(window[None].astype(np.int32))
    return generator.get_output("logits")[0]


answer(REQUEST, VOCAB, timed, logits_of)
