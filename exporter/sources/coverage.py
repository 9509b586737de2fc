"""Whether a checkpoint has every tensor of the model, in its shape, and nothing beside."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llx.errors import BadInput
from llx.exporter.sources.adapters import is_adapters
from llx.exporter.sources.base import TensorSource
from llx.exporter.sources.find import some
from llx.exporter.sources.ties import EMBEDDING, HEAD
from llx.llama.spec import LlamaSpec
from llx.llama.weights import weights_of

# Buffers that checkpoints of any age carry and that transformers computes anew: no weights.
BUFFERS = re.compile(
    r"(^|\.)rotary_emb\.\w+$|(^|\.)(position_ids|masked_bias|causal_mask)$|\.attn_rot_embd(\.|$)"
)
FSDP = "_fsdp_wrapped_module."
LAYER = re.compile(r"\bmodel\.layers\.(\d+)\.")
BIAS = re.compile(r"\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.bias$")
HEAD_NORM = re.compile(r"[._](q|k)_norm\b")
PLAIN = "export a plain LLaMA: `llx models` lists them"
# What tensors beside a LLaMA's mean, by their names, and what helps.
MEANINGS = (
    (
        r"\.experts\.|block_sparse_moe|_exps\b|\.mlp\.gate\.weight$|gate_inp|shared_expert",
        "experts: it is a mixture of experts",
        PLAIN,
    ),
    (
        r"\.(qweight|qzeros|g_idx|scales|zeros|SCB|weight_format|weight_packed|weight_shape)$"
        r"|\.weight[._](scale|scale_inv|zero_point|absmax|quant_map|nested|quant_state)"
        r"|\.(input|output|k|v)_scale$",
        "scales and packed values: it is quantized",
        "export from the checkpoint that it was made of, and let llx round the weights",
    ),
    (
        r"^(model\.)?(score|classifier|qa_outputs|v_head|value_head|reward_head)\b",
        "another head: it classifies or scores",
        "export the language model that it was made of",
    ),
    (
        r"vision|visual|image|mm_projector|multi_modal|audio|^v\.blk|^mm\.",
        "another tower: it sees or hears",
        "save its language model by itself, as LlamaForCausalLM, and export that",
    ),
    (
        r"[._](q|k)_norm\b|(pre|post)_feedforward|layernorm\.bias$|norm\.bias$|_norm\.bias$",
        "norms that a LLaMA does not have",
        PLAIN,
    ),
)


def check_coverage(source: TensorSource) -> dict[str, str]:
    """Hold the checkpoint against the model, both ways; return the tensors left out and why.

    Raises `BadInput` where a tensor is missing, extra, of another shape or no floats: a model that
    exports with a weight left out answers fluently and wrongly.
    """
    found = source.tensors
    needed = {part.name: part.shape for w in weights_of(source.spec) for part in w.parts}
    extra = [name for name in found if name not in needed and not _reason(name, source)]
    _require_no_adapter(source, found)
    _require_all(source, needed, extra)
    wrong = [name for name, shape in needed.items() if found[name].shape != shape]
    if wrong:
        raise _misshapen(source, needed, wrong)
    ints = [name for name in needed if not found[name].is_float]
    if ints:
        raise BadInput(
            f"{source.path}: {some(ints)} is stored as {found[ints[0]].dtype}, not as floats of "
            "16, 32 or 64 bits",
            "export from the checkpoint before it was quantized",
        )
    if extra:
        raise _superfluous(source, extra)
    left_out = {name: _reason(name, source) for name in found if name not in needed}
    return {**left_out, **source.skipped}


def _reason(name: str, source: TensorSource) -> str:
    """Why a tensor may be left out, or "" where it may not."""
    if BUFFERS.search(name):
        return "a buffer that is computed from the configuration"
    if name == HEAD and source.spec.tied:
        return f"tied: equal to {EMBEDDING}"
    return ""


def _require_no_adapter(source: TensorSource, names: Iterable[str]) -> None:
    adapters = [name for name in names if is_adapters(name)]
    if adapters:
        raise BadInput(
            f"{source.path} holds tensors of an adapter that is not merged: {some(adapters)}",
            "merge it with peft where it was trained, by model.merge_and_unload(), and save that",
        )


def _require_all(source: TensorSource, needed: Iterable[str], extra: list[str]) -> None:
    """Raise `BadInput` where tensors are missing, with what looks like the cause."""
    found = source.tensors
    missing = [name for name in needed if name not in found]
    if not missing:
        return
    if not found:
        others = f": it holds {some(list(source.skipped))}" if source.skipped else ""
        raise BadInput(
            f"{source.path} holds no tensors{others}", "export the file that holds the weights"
        )
    lacks = f"{source.path} lacks {some(missing)}"
    meaning = _meaning(extra, source.spec)
    if meaning:
        raise BadInput(f"{lacks} and holds {some(extra)}, {meaning[0]}", meaning[1])
    if prefix := _prefix(extra, missing):
        raise BadInput(
            f"{lacks}: its names have {prefix!r} in them",
            f"rename its tensors without {prefix!r} and save them anew, as safetensors",
        )
    if missing == [HEAD]:
        raise BadInput(
            f"{lacks}, and its configuration does not say that the tables are tied",
            "use the whole checkpoint; where the model does share its table, config.json must say "
            '"tie_word_embeddings": true',
        )
    flag = {_flag(name) for name in missing}
    if len(flag) == 1 and (name := flag.pop()):
        kind = "a model with biases on q, k and v" if source.spec.qkv_bias else name
        raise BadInput(
            f"{lacks}, which {kind} asks for",
            "use the configuration that belongs to these weights",
        )
    layers = {int(match[1]) for name in found if (match := LAYER.search(name))}
    if layers and layers == set(range(len(layers))) and len(layers) < source.spec.layers:
        raise BadInput(
            f"{lacks}: it has {len(layers)} layers, and its configuration {source.spec.layers}",
            "use the configuration that belongs to these weights, or download what is missing",
        )
    holds = f", and holds {some(extra)}" if extra else ""
    raise BadInput(
        f"{lacks}{holds}",
        "give its tensors the names of transformers' LlamaForCausalLM, if they are one's"
        if extra and len(missing) > len(found) // 2
        else "use a complete checkpoint: download it again, or check config.json",
    )


def _prefix(extra: list[str], missing: list[str]) -> str:
    """What stands before or within the names that are missing, such as `module.`; "" if nothing."""
    wanted = set(missing)
    if any(name.replace(FSDP, "") in wanted for name in extra):
        return FSDP
    for name in extra:
        for ours in (EMBEDDING, "model.layers.0.input_layernorm.weight"):
            for end in (ours, ours.removeprefix("model.")):
                if ours in wanted and name.endswith(f".{end}"):
                    return name.removesuffix(end)
    return ""


def _flag(name: str) -> str:
    """The switch of the configuration that a bias belongs to."""
    bias = BIAS.search(name)
    if not bias:
        return ""
    return "attention_bias" if bias[1].startswith("self_attn") else "mlp_bias"


def _misshapen(
    source: TensorSource, needed: dict[str, tuple[int, ...]], wrong: list[str]
) -> BadInput:
    found = source.tensors
    said = [
        f"{name} is {list(found[name].shape)} where the model needs {list(needed[name])}"
        for name in wrong
    ]
    ints = [name for name in wrong if not found[name].is_float]
    if ints:
        return BadInput(
            f"{source.path}: {some(said)}, and is stored as {found[ints[0]].dtype}",
            "export from the checkpoint before it was quantized",
        )
    rows = {found[name].shape[0] for name in wrong if found[name].shape}
    if set(wrong) <= {EMBEDDING, HEAD} and len(rows) == 1:
        return BadInput(
            f"{source.path}: {some(said)}",
            f"use the config.json that belongs to these weights: its vocab_size is {rows.pop()}",
        )
    return BadInput(
        f"{source.path}: {some(said)}", "use the config.json that belongs to these weights"
    )


def _superfluous(source: TensorSource, extra: list[str]) -> BadInput:
    """The error for tensors that the model has no place for: dropping them would change it."""
    holds = f"{source.path} holds {some(extra)}, which its model has no place for"
    beyond = [name for name in extra if (match := LAYER.search(name)) and _is_beyond(match, source)]
    if len(beyond) == len(extra):
        return BadInput(
            f"{holds}: its configuration has {source.spec.layers} layers",
            "use the configuration that belongs to these weights",
        )
    if meaning := _meaning(extra, source.spec):
        return BadInput(f"{holds}: {meaning[0]}", meaning[1])
    flags = {_flag(name) for name in extra}
    if flags <= {"attention_bias", "mlp_bias"}:
        return _biased(source.spec, holds, extra, sorted(flags))
    return BadInput(holds, "export the plain model: save it without them, if nothing needs them")


def _biased(spec: LlamaSpec, holds: str, extra: list[str], flags: list[str]) -> BadInput:
    """Biases whose flag is off: with all of a layer's they may be meant, with some they are not."""
    if spec.qkv_bias:
        return BadInput(
            f"{holds}: it has biases on q, k and v alone",
            "use the config.json that belongs to these weights",
        )
    asked = " and ".join(flags)
    modules = {match[1] for name in extra if (match := BIAS.search(name))}
    whole = {f"self_attn.{one}_proj" for one in "qkvo"} if "attention_bias" in flags else set()
    whole |= {f"mlp.{one}_proj" for one in ("gate", "up", "down")} if "mlp_bias" in flags else set()
    if modules == whole and len(extra) == len(whole) * spec.layers:
        return BadInput(
            f"{holds}: {asked} is false",
            f"use the config.json that belongs to these weights: where {asked} is true, and the "
            "model is one that reads it, they count",
        )
    return BadInput(
        f"{holds}: {asked} is false, and of {len(whole)} biases a layer would have {len(modules)}",
        "export the checkpoint as the architecture that it is; a LLaMA has all of them, or none",
    )


def _is_beyond(layer: re.Match[str], source: TensorSource) -> bool:
    return int(layer[1]) >= source.spec.layers


def _meaning(extra: list[str], spec: LlamaSpec) -> tuple[str, str] | None:
    """What tensors beside the model's are, and what helps, where their names say it."""
    names = [name for name in extra if not (spec.qk_norm and HEAD_NORM.search(name))]
    for pattern, what, remedy in MEANINGS:
        if any(re.search(pattern, name) for name in names):
            return what, remedy
    return None
