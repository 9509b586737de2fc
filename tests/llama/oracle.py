"""What transformers makes of a config.json, and what llx does, on small models of each family."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from llx.errors import BadInput
from llx.exporter.load import llama_from_source
from llx.exporter.sources import check_coverage
from llx.llama.config import spec_from_config
from llx.llama.families import FAMILIES
from llx.llama.model import empty_cache
from llx.llama.spec import LlamaSpec
from tests.checkpoints import TINY, MemorySource, config_of, random_tensors, stored_tensors

SMALL = replace(TINY, layers=1, dim=24, heads=2, kv_heads=1, ffn_dim=16, vocab=32)
TWO = replace(SMALL, layers=2)  # of which one may be otherwise than the other
LENGTH = 40
TOKENS = torch.arange(LENGTH)[None] * 7 % SMALL.vocab
TOLERANCE = 2e-4
ABSENT = object()

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
# LLaMA's kin: the spec, and what its config.json says beside that.
SLIDES = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}


def of(kind: str, **said: Any) -> dict[str, Any]:
    """What a config.json says of a family that another has the spec of."""
    return {"model_type": kind, "architectures": ABSENT, **said}


KIN: dict[str, tuple[LlamaSpec, dict[str, Any]]] = {
    "mistral": (replace(TWO, window=7, windowed=(0, 1)), {}),
    "ministral": (replace(TWO, window=7, windowed=(1,)), {}),
    "qwen2": (replace(TWO, qkv_bias=True), SLIDES),
    "qwen2 in yarn": (replace(TWO, qkv_bias=True), BLOCKS["yarn"]),
    "qwen3": (replace(TWO, qk_norm=True), SLIDES),
    "granite": (
        replace(TWO, embed_scale=3, attention_scale=0.2, residual_scale=0.5, logit_scale=0.25),
        {},
    ),
    "smollm3": (replace(TWO, nope=(0,)), {}),
    "smollm3 by interval": (
        replace(TWO, nope=(1,)),
        {"no_rope_layers": ABSENT, "no_rope_layer_interval": 2, **SLIDES},
    ),
    "internlm3": (replace(TWO, attention_bias=True, mlp_bias=True), of("internlm3")),
    "internlm3 as it is published": (
        TWO,
        of("internlm3", qkv_bias=False, bias=False, attention_bias=ABSENT, mlp_bias=ABSENT),
    ),
    "iquestcoder": (TWO, of("iquestcoder")),
    "seed_oss": (replace(TWO, qkv_bias=True), of("seed_oss", attention_bias=True)),
    "cwm": (replace(TWO, window=7, windowed=(1,)), of("cwm")),
    "phi3": (replace(TWO, dim=20, rotary_dim=6), {"sliding_window": 7}),
    "phi3 in longrope": (
        replace(TWO, dim=20, rotary_dim=6),
        {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.5, 2.5],
                "long_factor": [2.0, 3.0, 5.0],
            },
            "original_max_position_embeddings": 40,
        },
    ),
    "llama in longrope": (
        TWO,
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "factor": 4.0,
                "original_max_position_embeddings": 24,
                "short_factor": [1.0, 1.5, 2.5, 3.0, 3.5],
                "long_factor": [2.0, 3.0, 5.0, 6.0, 7.0],
            },
        },
    ),
}
BASES: dict[str, tuple[LlamaSpec, dict[str, Any]]] = {
    **{name: (SMALL, block) for name, block in BLOCKS.items()},
    **KIN,
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
    *("short_factor", "long_factor"),
)
VALUES: tuple[Any, ...] = (
    *(ABSENT, None, True, False, 0, 1, 2, 3, -1, 4096, 10**9, 2**31, 2**63, 10**30),
    *(0.0, 1e-45, 1e-5, 0.5, 1.0, 2.0, 4.0, 16.0, 4096.0, 1e7, -1.0, 1e300),
    *(math.nan, math.inf, -math.inf, "", "36", "4.0", "silu", "yarn", "\ud800", "a\nb"),
    *([], [1], [[]], {}, {"a": 1}, {"full_attention": {"rope_type": "default"}}),
)
SLIDING, FULL = "sliding_attention", "full_attention"
LISTS: tuple[Any, ...] = (
    *([SLIDING, FULL], [FULL, SLIDING], [SLIDING] * 2, [FULL] * 2, [FULL], [SLIDING] * 3),
    *(["attention", SLIDING], ["chunked_attention"] * 2, [FULL, None], [0, 1], [1, 0], [1, 0, 0]),
    *([0, 0], [1, 1], [2, 0], [True, False], [0.0, 1.0], ["0", "1"], [None, 1]),
)


@cache
def tensors_of(spec: LlamaSpec) -> dict[str, torch.Tensor]:
    """Its tensors; tied or not, the same model."""
    tensors = random_tensors(spec)
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}


def base_config(base: str) -> dict[str, Any]:
    spec, said = BASES[base]
    config = config_of(spec) | said
    return {key: copy.deepcopy(value) for key, value in config.items() if value is not ABSENT}


def own_keys(base: str) -> frozenset[str]:
    """The keys of a base's family that not every family has."""
    return FAMILIES[base.split(maxsplit=1)[0]].keys - FAMILIES["llama"].keys


def grid() -> list[tuple[str, tuple[str, ...], Any]]:
    """Every key by every value: what it is laid over, where the value goes, the value."""
    plain = itertools.product(BASES, [(field,) for field in FIELDS], VALUES)
    own = [
        (base, (field,), value)
        for base in KIN
        for field in sorted(own_keys(base))
        for value in (*VALUES, *LISTS)
    ]
    inner = [
        (base, (part, key), value)
        for base, (_, said) in BASES.items()
        for part in said
        if part.startswith("rope_")
        for key in IN_BLOCK
        for value in VALUES
    ]
    return [*plain, *own, *inner]


def changed(base: str, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    config = base_config(base)
    place = config
    for key in path[:-1]:
        place = place[key]
    if value is ABSENT:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = copy.deepcopy(value)
    return config


def ours(config: dict[str, Any], spec: LlamaSpec) -> np.ndarray | BadInput:
    """Logits [N, V] of as many tokens as the context has room for, or why there are none."""
    try:
        source = MemorySource(spec_from_config(config), tensors_of(spec))
        check_coverage(source)
    except BadInput as refused:
        return refused
    length = min(LENGTH, source.spec.context)
    model = llama_from_source(source, length)
    positions = torch.arange(length)[None]
    with torch.inference_mode():
        cache = empty_cache(source.spec, 1, length, torch.float32)
        return model(TOKENS[:, :length], positions, positions, cache)[0][0].numpy()


def theirs(config: dict[str, Any], spec: LlamaSpec, length: int = LENGTH) -> np.ndarray | None:
    """Logits [N, V] of so many tokens, or None where transformers fails or finds no numbers."""
    import transformers
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    family = CONFIG_MAPPING[config["model_type"]]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            read = family.from_dict(copy.deepcopy(config))
            model = MODEL_FOR_CAUSAL_LM_MAPPING[family](read).eval()
            model.load_state_dict(stored_tensors(spec, tensors_of(spec)), strict=True)
            logits = model(TOKENS[:, :length]).logits[0].numpy()
        except Exception:  # whatever ends it
            return None
    return logits if np.isfinite(logits).all() else None
