"""The architectures of GGUF files that describe a LLaMA or its kin, and what each leaves unsaid.

Facts are those of llama.cpp's converter (`conversion/` there) and graphs (`src/models/`). This
table is the one place that knows an architecture by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llx.errors import BadInput
from llx.exporter.sources.gguf_keys import REMEDY, Keys, ScaledKeys, WindowedKeys
from llx.typed import checked, plainly

ARCHITECTURE = "general.architecture"

# GGUF's names by Hugging Face's, outside of and within a block.
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Phi-3's own projections, which the converter leaves as they are: one below the other.
FUSED = {
    "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "ffn_up": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What differs from one architecture to another.

    `interleaved`: whether rows of q and k lie as RoPE of consecutive pairs needs them. `keys`: what
    is read below its prefix. `fused`: tensors of several projections. `qk_norm`: whether it has
    norms of q and k. `nope_step`: of so many layers the last does not turn, which no key says.
    `yarn`: whether its YaRN is the paper's. `partial`: whether a part of each head may turn.
    `longrope`: whether it has tables of it.
    """

    interleaved: bool = True
    keys: type[Keys] = Keys
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    qk_norm: bool = False
    nope_step: int | None = None
    yarn: bool = True
    partial: bool = False
    longrope: bool = False

    def nope(self, layers: int) -> tuple[int, ...]:
        """The layers without RoPE."""
        step = self.nope_step
        return tuple(range(step - 1, layers, step)) if step else ()


# The converter permutes q and k, of weights and biases, in `LlamaModel` and what inherits from it
# (Mistral as `llama`, Granite, SmolLM3, Mistral 3), for llama.cpp turns consecutive values of these
# (`llama_model_rope_type`: NORM). Qwen and Phi-3 inherit from `TextModel`, which leaves rows alone:
# there it turns a head's halves against one another (NEOX), as Hugging Face does.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "granite": Architecture(keys=ScaledKeys),
    # What its graph multiplies YaRN by changed from release to release.
    "mistral3": Architecture(yarn=False),
    "phi3": Architecture(
        interleaved=False, keys=WindowedKeys, fused=FUSED, partial=True, longrope=True
    ),
    "qwen2": Architecture(interleaved=False),
    "qwen3": Architecture(interleaved=False, qk_norm=True),
    "smollm3": Architecture(nope_step=4),
}


def architecture_of(path: Path, values: Mapping[str, Any]) -> str:
    """A file's architecture. Raises `BadInput`, by its name, for another model's, or for none."""
    name: str | None = checked(values.get(ARCHITECTURE), str | None, ARCHITECTURE, REMEDY)
    if name is None:
        raise BadInput(f"{path} does not say {ARCHITECTURE}", REMEDY)
    kind = values.get("general.type", "model")
    if kind != "model":
        raise BadInput(
            f"{path} is of type {plainly(kind)} (general.type), not a model",
            "name the GGUF file of the model itself",
        )
    if name not in ARCHITECTURES:
        kin = ", ".join(name for name in ARCHITECTURES if name != "llama")
        raise BadInput(
            f"the checkpoint's architecture is {plainly(name)}, not llama or its kin ({kin})",
            "llx exports LLaMA models and their kin; `llx models` lists them",
        )
    return name
