"""Keys of a GGUF file that describe a LLaMA or its kin, each of its type and within its range.

Which are needed, and what an absent one means, is as in llama.cpp's `load_hparams`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, field

from llx.errors import BadInput
from llx.llama.config_rope import Context, NotNegative, Theta
from llx.llama.families import Eps, Layers, Rows, Width
from llx.llama.spec import MOST_FACTOR, MOST_OTHER
from llx.typed import plainly, shown, typed

REMEDY = "convert the checkpoint again, or export from the Hugging Face checkpoint"
PLAIN = "llx exports LLaMA models and their kin; `llx models` lists them"
Scale = Annotated[float, Meta(ge=-MOST_OTHER, le=MOST_OTHER)]
Factor = Annotated[float, Meta(ge=0, le=MOST_FACTOR)]  # 0 says that there is none


class Keys(msgspec.Struct, kw_only=True):
    """Keys of every architecture beside RoPE's. A list has a value for each layer."""

    block_count: Layers
    context_length: Context
    embedding_length: Width
    feed_forward_length: Rows | list[Rows]
    head_count: Width | list[Width] = field(name="attention.head_count")
    norm_eps: Eps = field(name="attention.layer_norm_rms_epsilon")
    head_count_kv: Width | list[Width] | None = field(default=None, name="attention.head_count_kv")
    key_length: Width | None = field(default=None, name="attention.key_length")
    value_length: Width | None = field(default=None, name="attention.value_length")
    causal: bool = field(default=True, name="attention.causal")
    temperature: Scale = field(default=0.0, name="attention.temperature_scale")
    expert_count: int = 0
    vocab_size: Rows | None = None

    def parts(self, _context: int, /) -> dict[str, Any]:
        """The spec's fields of the optional parts that they ask for."""
        return {}


class ScaledKeys(Keys, kw_only=True):
    """Granite's: multipliers, of which 0 is as if it were not there; logits are divided."""

    logit_scale: Scale
    embedding_scale: Scale = 0.0
    residual_scale: Scale = 0.0
    attention_scale: Scale = field(default=0.0, name="attention.scale")
    # Whether RoPE was scaled by fine-tuning; of Granite, whether there is RoPE at all.
    turns: bool = field(default=True, name="rope.scaling.finetuned")

    def parts(self, _context: int, /) -> dict[str, Any]:
        """Multipliers. Raises `ValueError` for a model that knows no positions."""
        if not self.logit_scale:
            raise ValueError("logit_scale is 0, and logits are divided by it")
        if not self.turns:
            raise ValueError("rope.scaling.finetuned is false: no layer has RoPE")
        return {
            "embed_scale": self.embedding_scale or 1.0,
            "attention_scale": self.attention_scale or None,
            "residual_scale": self.residual_scale or 1.0,
            "logit_scale": 1 / self.logit_scale,
        }


class WindowedKeys(Keys, kw_only=True):
    """Phi-3's: a window of all layers, 0 for none.

    llama.cpp sees the whole context all the same, and says so; transformers' Phi-3 does not.
    """

    sliding_window: Annotated[int, Meta(ge=0)] = field(default=0, name="attention.sliding_window")

    def parts(self, context: int, /) -> dict[str, Any]:
        """The window. One as long as the context hides nothing."""
        if not 0 < self.sliding_window < context:
            return {}
        return {"window": self.sliding_window, "windowed": tuple(range(self.block_count))}


class RopeKeys(msgspec.Struct):
    """Keys below `….rope.`. The defaults are llama.cpp's."""

    dimension_count: Width | None = None
    freq_base: Theta = 10000.0
    scale_linear: Factor = 0.0
    type: str = field(default="linear", name="scaling.type")
    factor: Factor = field(default=0.0, name="scaling.factor")
    original: Annotated[int, Meta(ge=0)] = field(default=0, name="scaling.original_context_length")
    attn_factor: Scale = field(default=1.0, name="scaling.attn_factor")
    yarn_attn_factor: Scale = field(default=-1.0, name="scaling.yarn_attn_factor")
    yarn_ext_factor: Scale = field(default=-1.0, name="scaling.yarn_ext_factor")
    yarn_log_multiplier: Scale = field(default=0.0, name="scaling.yarn_log_multiplier")
    yarn_beta_fast: NotNegative = field(default=32.0, name="scaling.yarn_beta_fast")
    yarn_beta_slow: NotNegative = field(default=1.0, name="scaling.yarn_beta_slow")


# What changes no logits: how the tensors lie in the file, and what only a mixture of experts or a
# state space layer has, whose tensors would be refused: a Granite 4 without either says it, too.
SILENT = frozenset(
    {
        *("tensor_data_layout", "rope.scaling.finetuned", "expert_used_count"),
        *("attention.layer_norm_epsilon", "use_parallel_residual"),
        "expert_shared_feed_forward_length",
        *("ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.inner_size"),
        "ssm.time_step_rank",
    }
)


def keys_of(
    path: Path,
    values: Mapping[str, Any],
    prefix: str,
    kind: type[Keys],
    tell: Callable[[str], None],
) -> tuple[Keys, RopeKeys]:
    """The keys of a file below `prefix`, typed; `tell` is told of those that are not read.

    Raises `BadInput` for a key that is missing, is of another type or out of its range, or asks
    for arithmetic that this model does not have.
    """
    ours = {
        key.removeprefix(prefix): shortest(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }
    rope = {
        key.removeprefix("rope."): value for key, value in ours.items() if key.startswith("rope.")
    }
    keys = typed(ours, kind, f"{path}: {prefix}", REMEDY)
    if keys.expert_count:
        raise BadInput(
            f"{path} has {prefix}expert_count {keys.expert_count}: a mixture of experts, no LLaMA",
            PLAIN,
        )
    if not keys.causal:
        raise BadInput(
            f"{path} has {prefix}attention.causal false: a token sees those after it",
            "llx exports LLaMA models that generate, whose tokens see those before them alone",
        )
    if keys.temperature:
        raise BadInput(
            f"{path} has {prefix}attention.temperature_scale {keys.temperature:g}: attention "
            "sharpens with the position, as Ministral 3's does and no LLaMA's",
            PLAIN,
        )
    found = typed(rope, RopeKeys, f"{path}: {prefix}rope.", REMEDY)
    known = {f.encode_name for f in msgspec.structs.fields(kind)} | SILENT
    known |= {f"rope.{f.encode_name}" for f in msgspec.structs.fields(RopeKeys)}
    unread = [prefix + plainly(key) for key, value in ours.items() if key not in known and value]
    if unread:
        tell(
            f"{path.name} has {', '.join(unread[:20])}, which no {prefix.removesuffix('.')} reads, "
            "here or in llama.cpp: a model that was trained with such arithmetic would answer "
            "otherwise"
        )
    return keys, found


def of_every_layer(value: int | list[int], layers: int, path: Path, key: str) -> int:
    """The one value that all layers share. Raises `BadInput` where they differ."""
    if isinstance(value, int):
        return value
    if len(value) != layers or len(set(value)) != 1:
        raise BadInput(
            f"{path} has {key} {shown(value)}: not the same for each of {layers} layers",
            "export a LLaMA, whose layers are alike",
        )
    return value[0]


def shortest(value: Any) -> Any:
    """A float32 of the file as the decimal that was meant: 1e-5, not 9.999999747378752e-06."""
    if not isinstance(value, float):
        return value
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))
