"""What transformers makes of a config.json, and what llx does, on one small model."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from llx.errors import BadInput
from llx.exporter.load import llama_from_source
from llx.exporter.sources import check_coverage
from llx.llama.config import spec_from_config
from llx.llama.model import empty_cache
from tests.checkpoints import TINY, MemorySource, config_of, random_tensors

SMALL = replace(TINY, layers=1, dim=24, heads=2, kv_heads=1, ffn_dim=16, vocab=32)
TENSORS = random_tensors(SMALL)
TENSORS["lm_head.weight"] = TENSORS["model.embed_tokens.weight"]  # tied or not, the same model
LENGTH = 40
TOKENS = torch.arange(LENGTH)[None] * 7 % SMALL.vocab
TOLERANCE = 2e-4

SCALED = {"factor": 4.0, "original_max_position_embeddings": 24}
LLAMA3 = SCALED | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BLOCKS = {
    "plain": {},
    "default": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_scaling": SCALED | {"type": "yarn", "beta_fast": 2.0}},
}
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
FIELDS = (
    *SIZES,
    *("max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "rope_theta", "rope_scaling", "rope_parameters"),
    *("partial_rotary_factor", "original_max_position_embeddings", "is_causal"),
)
IN_BLOCK = (
    *("type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim", "truncate", "partial_rotary_factor", "mrope_section"),
)
ABSENT = object()
VALUES: tuple[Any, ...] = (
    *(ABSENT, None, True, False, 0, 1, 2, 3, -1, 4096, 10**9, 2**31, 2**63, 10**30),
    *(0.0, 1e-45, 1e-5, 0.5, 1.0, 2.0, 4.0, 16.0, 4096.0, 1e7, -1.0, 1e300),
    *(math.nan, math.inf, -math.inf, "", "36", "4.0", "silu", "yarn", "\ud800", "a\nb"),
    *([], [1], [[]], {}, {"a": 1}, {"full_attention": {"rope_type": "default"}}),
)


def base_config(block: str) -> dict[str, Any]:
    return config_of(SMALL) | copy.deepcopy(BLOCKS[block])


def grid() -> list[tuple[str, tuple[str, ...], Any]]:
    """Every key by every value: the block, where the value goes, the value."""
    plain = itertools.product(BLOCKS, [(field,) for field in FIELDS], VALUES)
    inner = [
        (block, (part, key), value)
        for block in BLOCKS
        for part in BLOCKS[block]
        for key in IN_BLOCK
        for value in VALUES
    ]
    return [*plain, *inner]


def changed(block: str, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    config = base_config(block)
    place = config
    for key in path[:-1]:
        place = place[key]
    if value is ABSENT:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = copy.deepcopy(value)
    return config


def ours(config: dict[str, Any]) -> np.ndarray | BadInput:
    """Logits [N, V] of as many tokens as the context has room for, or why there are none."""
    try:
        source = MemorySource(spec_from_config(config), TENSORS)
        check_coverage(source)
    except BadInput as refused:
        return refused
    length = min(LENGTH, source.spec.context)
    model = llama_from_source(source, length)
    positions = torch.arange(length)[None]
    with torch.inference_mode():
        cache = empty_cache(source.spec, 1, length, torch.float32)
        return model(TOKENS[:, :length], positions, positions, cache)[0][0].numpy()


def theirs(config: dict[str, Any], length: int = LENGTH) -> np.ndarray | None:
    """Logits [N, V] of so many tokens, or None where transformers fails or finds no numbers."""
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            read = LlamaConfig.from_dict(copy.deepcopy(config))
            model = LlamaForCausalLM(read).eval()
            model.load_state_dict(TENSORS, strict=True)
            logits = model(TOKENS[:, :length]).logits[0].numpy()
        except Exception:  # whatever ends it
            return None
    return logits if np.isfinite(logits).all() else None
