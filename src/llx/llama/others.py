"""Models that are not LLaMA's kin: what each has that llx's graphs do not, told by its name.

A name says no more than what is to be said of it: what is read is in `llx.llama.families` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

EXPERTS = "a mixture of experts: which weights compute a token is chosen as it runs"
TOWERS = "a model of several parts, one of which sees, hears or draws"
STATES = "a state-space model, or half of one: its layers keep a state instead of keys and values"
LATENT = "a model of latent attention: keys and values are kept compressed"
LAYER_NORM = "a model that normalizes by LayerNorm, not by RMSNorm"
AFTER = "a model whose norms stand behind attention and feed-forward, not only before them"
NEIGHBOURS = "a model whose RoPE turns neighbouring values of a head, not its two halves"
UNGATED = "a model whose feed-forward has no gate"
NOT_CAUSAL = "no decoder that generates: its tokens see later ones, or it has an encoder"
# What is said of which names; names are compared in lower case, without what is no letter or digit.
# The first that holds counts.
KINDS: tuple[tuple[str, str], ...] = (
    # By a part of the name that says it.
    (r"vl$|vlmoe|vision|audio|omni|multimodal|llava|ocr$", TOWERS),
    (
        r"^(mllama|llama4|mistral3|pixtral|gemma3|gemma3n|gemma4|idefics\d?|paligemma|smolvlm"
        r"|aria|chameleon|emu3|janus|internvl|molmo2?|ovis2|fuyu|kosmos2|voxtral|moshi|csm|mistral4"
        r"|kimik25|minicpmv.*|minicpmo|phi3v|phi4mm|qwen35|qwen35moe)$",
        TOWERS,
    ),
    (
        r"^(mamba|falconmamba|codestralmamba|jamba|bamba|zamba|nemotronh|falconh1|granitemoehybrid"
        r"|lfm2|lfm3|qwen3next|rwkv|xlstm|recurrentgemma|griffin|plamo2|minimax$|kimilinear"
        r"|olmohybrid|bailinghybrid|qwen35(moe)?(text|forcausallm))",
        STATES,
    ),
    (
        r"moe|^(mixtral|deepseekv[234]|deepseekv32|deepseek|dbrx|gptoss|jetmoe|flexolmo|dots1"
        r"|grok1?|arctic|llama4text|switchtransformers|nllbmoe|solaropen|longcatflash|minimaxm\d|hyv3|hyv4"
        r"|afmoe|laguna|mellum|axk\d|mimov2flash|step3p7|zaya|exaonemoe|bailing.*)$",
        EXPERTS,
    ),
    (r"^(minicpm3|youtu)$", LATENT),
    (
        r"^gemma2$",
        "a Gemma whose norms stand behind attention and feed-forward too, and whose scores and "
        "logits are capped",
    ),
    (
        r"^gemma3(text|forcausallm)$",
        "a Gemma whose norms stand behind attention and feed-forward too",
    ),
    (
        r"^(gemma|vaultgemma)$",
        "a Gemma, whose norms add 1 to their weights, and whose feed-forward is gated by GELU",
    ),
    (
        r"^ministral3$",
        "a Ministral 3, whose queries grow with their position (llama_4_scaling_beta)",
    ),
    (
        r"^(gpt2|gptneo|gptneox|gptneoxjapanese|gptj|gptbigcode|openaigpt|opt|bloom|falcon|mpt|phi"
        r"|stablelm|stablelmepoch|starcoder2|codegen|persimmon|cohere|cohere2|nemotron|olmo|xglm"
        r"|jais|jais2|biogpt|ctrl|qwenaudio|chatglm1)$",
        LAYER_NORM,
    ),
    (r"^(olmo2|olmo3|exaone4|glm4|hyperclovax)$", AFTER),
    (r"^(glm|chatglm|ernie45|helium)$", NEIGHBOURS),
    (r"^(arcee|apertus|nanochat)$", UNGATED),
    (
        r"^hunyuan(v1dense|densev1)$",
        "a Hunyuan, which norms each head's queries and keys after RoPE, not before it",
    ),
    (r"^bitnet$", "a BitNet, whose layers have norms within attention and feed-forward"),
    (r"^diffllama$", "a model of differential attention"),
    (
        r"^(bert|roberta|distilbert|albert|electra|deberta(v2)?|xlmroberta(xl)?|modernbert|t5|mt5"
        r"|umt5|bart|mbart|pegasus|marian|m2m100|whisper|xlnet|eurobert|nomicbert)$",
        NOT_CAUSAL,
    ),
)
CLASS_ENDS = re.compile(
    r"(ForCausalLM|ForConditionalGeneration|LMHeadModel|ForMaskedLM|ForQuestionAnswering"
    r"|For\w+Classification|Model)$"
)
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config", "vision_config")


def what_is(model_type: str | None, classes: Sequence[str]) -> str | None:
    """What a model is, by its name, or None where nothing is known of it."""
    ends = [CLASS_ENDS.sub("", name) for name in classes]
    for name in (model_type or "", *classes, *ends):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        for pattern, what in KINDS:
            if plain and re.search(pattern, plain):
                return what
    return None


def is_wrapped(config: Mapping[str, Any]) -> bool:
    """Whether the file describes several models, one of which reads and writes."""
    return any(isinstance(config.get(part), dict) for part in WRAPPED)


def experts_key(config: Mapping[str, Any]) -> str | None:
    """The key that counts experts, where there are several."""
    return next(
        (key for key in COUNTS if isinstance(config.get(key), int) and config[key] > 1), None
    )
