"""Small random checkpoints, written as the formats that llx reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llx.exporter.load import llama_from_source
from llx.exporter.sources.base import TensorInfo, Text
from llx.llama.config import fused_from_config
from llx.llama.model import Llama
from llx.llama.rope import inverse_frequencies
from llx.llama.spec import LlamaSpec, RopeSpec, yarn_attention
from llx.llama.weights import weights_of

# Odd sizes: nothing is a multiple of anything by chance. Hkv < H.
TINY = LlamaSpec(
    layers=2, dim=36, heads=6, kv_heads=2, head_dim=10, ffn_dim=52, vocab=300, context=96
)
MHA = replace(TINY, kv_heads=6, tied=True)
MQA = replace(TINY, kv_heads=1, rope=RopeSpec(theta=500000.0))
BIASED = replace(TINY, attention_bias=True, mlp_bias=True)
SIXTEENS = replace(TINY, head_dim=16)  # heads that GroupQueryAttention takes
LINEAR = replace(TINY, rope=RopeSpec(theta=1000.0, type="linear", factor=4.0))
# Scaled RoPE of small contexts: of the five pairs one is kept, one is blended, three are divided,
# and the tests' sequences of 36 tokens go past what the model would have been trained for.
LLAMA3 = replace(TINY, rope=RopeSpec(theta=500.0, type="llama3", factor=8.0, original_context=28))
YARN = replace(
    TINY,
    rope=RopeSpec(
        theta=100.0,
        type="yarn",
        factor=4.0,
        original_context=24,
        beta_fast=2.0,
        attention_factor=yarn_attention(4.0),
    ),
)
DYNAMIC = replace(TINY, rope=RopeSpec(type="dynamic", factor=2.0, original_context=96))
# LLaMA's kin: each part by itself, on heads that GroupQueryAttention takes and on those that not.
KIN = {
    "qkv-bias": {"qkv_bias": True},
    "qk-norm": {"qk_norm": True},
    "window": {"window": 7, "windowed": (0, 1)},
    "window-of-one-layer": {"window": 7, "windowed": (1,)},
    "nope-layer": {"nope": (0,)},
    "scales": {
        "embed_scale": 3.0,
        "attention_scale": 0.2,
        "residual_scale": 0.5,
        "logit_scale": 0.25,
    },
    "part-turned": {"rotary_dim": 6},
}
EVERYTHING: dict[str, Any] = {name: part for one in KIN.values() for name, part in one.items()}


def longrope(pairs: int) -> RopeSpec:
    """Each pair divided by a factor of its own."""
    factors = tuple(1 + 0.5 * i for i in range(pairs))
    return RopeSpec(
        type="longrope", original_context=96, attention_factor=1.2, short_factors=factors
    )


KIN_SPECS = {
    **{name: replace(TINY, **part) for name, part in KIN.items()},
    **{f"{name}-of-16": replace(SIXTEENS, **part) for name, part in KIN.items()},
    # Of a dim that is shared by the heads evenly, which Phi3Config demands.
    "longrope": replace(TINY, dim=60, rope=longrope(5)),
    "longrope-of-16": replace(
        SIXTEENS, dim=96, rope=longrope(3), rotary_dim=6, window=7, windowed=(0, 1)
    ),
}
# What no family has: for what needs no checkpoint.
TOGETHER = {
    "all-parts": replace(TINY, **EVERYTHING),
    "all-parts-of-16": replace(SIXTEENS, **EVERYTHING),
}
SPECS = {
    "heads-of-16": SIXTEENS,
    "gqa": TINY,
    "mha-tied": MHA,
    "mqa-theta-500k": MQA,
    "biased": BIASED,
    "linear-rope": LINEAR,
    "llama3-rope": LLAMA3,
    "yarn-rope": YARN,
    "dynamic-rope": DYNAMIC,
}


# Another number, and all that tests make up is made up anew: what holds must hold for any.
SEED = int(os.environ.get("LLX_TEST_SEED", "0"))


def dice(seed: int = 0) -> np.random.Generator:
    """Of numpy, for inputs that are made up."""
    return np.random.default_rng(seed + 1000 * SEED)


def torch_dice(seed: int = 0) -> torch.Generator:
    """Of PyTorch, for inputs that are made up."""
    return torch.Generator().manual_seed(seed + 1000 * SEED)


def random_tensors(spec: LlamaSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors by their Hugging Face names; norms around one, the rest small."""
    generator = torch_dice(seed)
    tensors = {}
    for weight in weights_of(spec):
        for part in weight.parts:
            noise = torch.randn(part.shape, generator=generator)
            tensors[part.name] = 1 + 0.1 * noise if "norm" in part.name else 0.15 * noise
    return tensors


class MemorySource:
    """A checkpoint that lives in memory."""

    format = "memory"
    path = Path("memory")
    files: list[Path] = []  # noqa: RUF012
    warnings: list[str] = []  # noqa: RUF012
    skipped: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, spec: LlamaSpec, tensors: dict[str, torch.Tensor] | None = None) -> None:
        self.spec = spec
        self.warnings: list[str] = []
        self.state = tensors or random_tensors(spec)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(tuple(t.shape), "F32") for name, t in self.state.items()}

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        tensor = self.state[name][rows]
        return tensor if columns == slice(None) else tensor[:, columns]

    def text(self) -> Text | None:
        return None


def random_llama(spec: LlamaSpec, seed: int = 0) -> Llama:
    """A small model in fp32."""
    return llama_from_source(MemorySource(spec, random_tensors(spec, seed)))


def config_of(spec: LlamaSpec) -> dict[str, Any]:
    """A config.json, in the spelling of transformers 4."""
    config: dict[str, Any] = {
        "hidden_size": spec.dim,
        "intermediate_size": spec.ffn_dim,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "tie_word_embeddings": spec.tied,
        "hidden_act": "silu",
        "eos_token_id": 0,
        **family_of(spec),
    }
    if spec.rope.type != "default":
        config["rope_scaling"] = rope_scaling_of(spec.rope)
    return config


def family_of(spec: LlamaSpec) -> dict[str, Any]:
    """What a config.json says of the spec's parts, as the family that has them."""
    biases = {"attention_bias": spec.attention_bias, "mlp_bias": spec.mlp_bias}
    layers = range(spec.layers)
    types = ["sliding_attention" if i in spec.windowed else "full_attention" for i in layers]
    scales = (spec.embed_scale, spec.residual_scale, spec.logit_scale)
    if spec.rotary_dim or spec.rope.type == "longrope":
        part = spec.rotated / spec.head_dim
        original = {"original_max_position_embeddings": spec.rope.original_context}
        more = original if spec.rope.type == "longrope" else {}
        window = {"sliding_window": spec.window, "pad_token_id": None}
        return named("phi3", "Phi3", partial_rotary_factor=part, **window, **more)
    if spec.qk_norm:
        return named("qwen3", "Qwen3", attention_bias=spec.attention_bias)
    if spec.qkv_bias:
        return named("qwen2", "Qwen2")
    if spec.nope:
        turns = [int(i not in spec.nope) for i in layers]
        return named("smollm3", "SmolLM3", no_rope_layers=turns, pad_token_id=None, **biases)
    if scales != (1, 1, 1) or spec.attention_scale:
        multipliers = {
            "embedding_multiplier": spec.embed_scale,
            "residual_multiplier": spec.residual_scale,
            "attention_multiplier": spec.attention_scale or spec.head_dim**-0.5,
            "logits_scaling": 1 / spec.logit_scale,
        }
        return named("granite", "Granite", **biases, **multipliers)
    if len(spec.windowed) == spec.layers:
        return named("mistral", "Mistral", sliding_window=spec.window)
    if spec.windowed:
        return named("ministral", "Ministral", sliding_window=spec.window, layer_types=types)
    return named("llama", "Llama", **biases)


def named(kind: str, model: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [f"{model}ForCausalLM"], "model_type": kind, **more}


def rope_scaling_of(rope: RopeSpec) -> dict[str, Any]:
    """The block `rope_scaling` of a config.json."""
    scaling: dict[str, Any] = {"rope_type": rope.type, "factor": rope.factor}
    if rope.type == "linear":
        scaling["type"] = scaling.pop("rope_type")  # as transformers spelled it before 4.43
    if rope.type in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_context
    if rope.type == "llama3":
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
    if rope.type == "longrope":
        scaling |= {
            "attention_factor": rope.attention_factor,
            "short_factor": list(rope.short_factors),
            "long_factor": [2 * factor for factor in rope.short_factors],
        }
    if rope.type == "yarn":
        scaling |= {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "attention_factor": rope.attention_factor,
            "truncate": rope.truncate,
        }
    return scaling


def stored_tensors(spec: LlamaSpec, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors as its family stores them: Phi-3's q, k and v are one, for example."""
    stored = dict(tensors)
    for module, parts in fused_from_config(config_of(spec)).items():
        for layer in range(spec.layers):
            names = [f"model.layers.{layer}.{part}.weight" for part in parts]
            rows = [stored.pop(name) for name in names if name in stored]
            if rows:
                stored[f"model.layers.{layer}.{module}.weight"] = torch.cat(rows)
    return stored


def byte_tokenizer(vocab: int) -> Tokenizer:
    """A tokenizer of single bytes, padded with unused tokens up to `vocab`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<end>", *alphabet]
    tokens += [f"<unused{i}>" for i in range(vocab - len(tokens))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"


def write_checkpoint(
    folder: Path,
    spec: LlamaSpec = TINY,
    tensors: dict[str, torch.Tensor] | None = None,
    shards: int = 1,
    tokenizer: bool = True,
) -> Path:
    """A Hugging Face folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = stored_tensors(spec, tensors or random_tensors(spec))
    (folder / "config.json").write_text(json.dumps(config_of(spec)))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        weight_map = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = {name: tensors[name] for name in names[shard::shards]}
            save_file(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index)
    if tokenizer:
        byte_tokenizer(spec.vocab).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": TEMPLATE, "eos_token": {"content": "<end>"}})
        )
    return folder


def write_bin(folder: Path, spec: LlamaSpec, tensors: dict[str, torch.Tensor]) -> Path:
    """A Hugging Face folder of before safetensors, in two shards."""
    write_checkpoint(folder, spec, tensors)
    tensors = stored_tensors(spec, tensors)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    names = list(tensors)
    for shard in range(2):
        file = f"pytorch_model-{shard + 1:05}-of-00002.bin"
        part = {name: tensors[name] for name in names[shard::2]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_meta(
    folder: Path,
    spec: LlamaSpec,
    tensors: dict[str, torch.Tensor],
    shards: int = 2,
    embedding_axis: int = 1,
) -> Path:
    """A folder as Meta publishes them; Llama 1 and 2 split the embedding by columns, 3 by rows."""
    from llx.exporter.sources.meta import INNER, OUTER, SPLIT_BY_COLUMNS

    folder.mkdir(parents=True, exist_ok=True)
    names = {ours: theirs for theirs, ours in OUTER.items()}
    inner = {ours: theirs for theirs, ours in INNER.items()}
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for name, whole in tensors.items():
        tensor, stored = whole, names.get(name)
        if stored is None:
            _, _, layer, module = name.removesuffix(".weight").split(".", 3)
            stored = f"layers.{layer}.{inner[module]}.weight"
            heads = {"self_attn.q_proj": spec.heads, "self_attn.k_proj": spec.kv_heads}.get(module)
            if heads:
                tensor = torch.from_numpy(_interleave(tensor.numpy(), heads))
        axis = embedding_axis if "embed" in name else int(name.endswith(SPLIT_BY_COLUMNS))
        pieces = tensor.chunk(shards, axis) if tensor.ndim == 2 else [tensor] * shards
        for part, piece in zip(parts, pieces, strict=True):
            part[stored] = piece.clone()
    for i, part in enumerate(parts):
        part["rope.freqs"] = torch.ones(spec.head_dim // 2)
        torch.save(part, folder / f"consolidated.{i:02}.pth")
    params = {
        "dim": spec.dim,
        "n_layers": spec.layers,
        "n_heads": spec.heads,
        "n_kv_heads": spec.kv_heads,
        "norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "multiple_of": 4,
        "vocab_size": -1,
    }
    (folder / "params.json").write_text(json.dumps(params))
    return folder


# Of which llama.cpp turns consecutive values, so that its converter permutes q and k.
INTERLEAVED = {"llama", "granite", "mistral3", "smollm3"}
# Mistral as the converter writes it: a LLaMA, of whose window no key says anything.
WRITTEN_AS = {"mistral": "llama", "ministral": "llama"}
FUSED = {
    "attn_qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "ffn_up": ["mlp.gate_proj", "mlp.up_proj"],
}


def architecture_of(spec: LlamaSpec) -> str:
    """The architecture as which llama.cpp's converter writes a model of this spec."""
    if spec.rotary_dim is not None or spec.rope.type == "longrope":
        return "phi3"
    kind = family_of(spec)["model_type"]
    return WRITTEN_AS.get(kind, kind)


def write_gguf(
    path: Path,
    spec: LlamaSpec,
    tensors: dict[str, torch.Tensor],
    kind: str = "f32",
    describe: Callable[[Any], None] = lambda writer: None,
    architecture: str | None = None,
) -> Path:
    """A GGUF file as llama.cpp's converter writes it: q and k with RoPE's pairs interleaved.

    Matrices are of the given kind, such as f16 or q8_0; vectors are always f32. `describe` adds
    fields, such as a tokenizer's, with the writer. `architecture`: another than the spec's own.
    """
    import gguf

    from llx.exporter.sources.gguf_architectures import INNER, OUTER

    architecture = architecture or architecture_of(spec)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.dim)
    writer.add_feed_forward_length(spec.ffn_dim)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    _add_rope_scaling(writer, spec)
    _add_parts(writer, spec, architecture)
    describe(writer)
    stored = gguf.GGMLQuantizationType[kind.upper()]

    def add(name: str, array: np.ndarray) -> None:
        if array.ndim == 1 or kind == "f32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)

    outer = {ours: theirs for theirs, ours in OUTER.items()}
    inner = {ours: theirs for theirs, ours in INNER.items()}
    for name, tensor in (fused_as_phi3(tensors) if architecture == "phi3" else tensors).items():
        array = tensor.numpy()
        if name in outer:
            add(outer[name], array)
            continue
        _, _, layer, module = name.rsplit(".", 1)[0].split(".", 3)
        suffix = name.rsplit(".", 1)[1]
        heads = {"self_attn.q_proj": spec.heads, "self_attn.k_proj": spec.kv_heads}.get(module)
        if heads and architecture in INTERLEAVED:
            array = _interleave(array, heads)
        add(f"blk.{layer}.{inner.get(module, module)}.{suffix}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fused_as_phi3(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with Phi-3's projections one below the other, under their names in GGUF."""
    left = dict(tensors)
    for name in tensors:
        for fused, parts in FUSED.items():
            place, found, kind = name.partition(parts[0])
            if found:
                rows = [left.pop(f"{place}{part}{kind}") for part in parts]
                left[f"{place}{fused}{kind}"] = torch.cat(rows)
    return left


def _add_parts(writer: Any, spec: LlamaSpec, architecture: str) -> None:
    """The keys of one architecture alone."""
    if architecture == "granite":
        writer.add_embedding_scale(spec.embed_scale)
        writer.add_residual_scale(spec.residual_scale)
        writer.add_attention_scale(spec.attention_scale or spec.head_dim**-0.5)
        writer.add_logit_scale(1 / spec.logit_scale)
    if architecture == "phi3":
        writer.add_rope_dimension_count(spec.rotated)
        writer.add_sliding_window(spec.window or 0)


def _add_rope_scaling(writer: Any, spec: LlamaSpec) -> None:
    """RoPE scaling as llama.cpp's converter writes it: keys, or tables of divisors."""
    import gguf

    rope = spec.rope
    if rope.type in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.type))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.type in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)
    if rope.type == "yarn":
        writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(rope.beta_slow)
    if rope.type == "llama3":
        plain = inverse_frequencies(RopeSpec(theta=rope.theta), spec.head_dim)
        divisors = plain / inverse_frequencies(rope, spec.head_dim)
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    if rope.type == "longrope":
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
        short = np.array(rope.short_factors, np.float32)
        writer.add_tensor("rope_factors_long.weight", 4 * short)
        writer.add_tensor("rope_factors_short.weight", short)


def _interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own permutation, from halves to pairs."""
    rows = array.shape[0]
    pairs = array.reshape(heads, 2, rows // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(array.shape))
