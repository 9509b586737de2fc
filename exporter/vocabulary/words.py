"""How a text is cut into words, before those become tokens: Llama 3's way, GPT-2's, and others.

A GGUF file names them as `tokenizer.ggml.pre`, by llama.cpp's words (src/llama-vocab.cpp there).
Patterns are those that were published with the models, which llama.cpp notes beside its own where
its engine of patterns cannot follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, pre_tokenizers

# Llama 3's way, and its special tokens as Llama 3.1 names them, which follow the ranks:
# github.com/meta-llama/llama-models and the tokenizer.json that was published with it.
# Llama 3.0 calls some of these reserved; what it names stands at the same ids.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)
# Where Meta's own code stops, with base and instruct models alike.
LLAMA3_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
# No other vocabulary has all of these.
LLAMA3_SIGNS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA3_PRE = ("llama-bpe", "llama-v3", "llama3")
# Qwen 2, 2.5 and 3: Llama 3's way, and every digit by itself.
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN2_PRE = ("qwen2", "deepseek-r1-qwen")
# Words of one case, or of a capital and small letters: GPT-4o's, which Phi-4-mini took over, and
# those of Mistral Nemo and what followed it, without contractions and with single digits.
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = CASED_SPLIT.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(
    r"\p{N}{1,3}", r"\p{N}"
)
# Of these a word that is a token is taken whole, and a text begins with BOS unless a file says not.
WHOLE_PRE = (*LLAMA3_PRE, "tekken")
# Tokens that no vocabulary but Phi-3's has, and those after which it keeps spaces: it swallows
# them after all others that are special, as llama.cpp does by the model's name.
PHI3_SIGNS = ("<|placeholder1|>", "<|assistant|>", "<|user|>", "<|end|>")
PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")


def split_words(pattern: str) -> Any:
    """The words that a pattern finds, as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def llama3_words() -> Any:
    """Llama 3's words, as bytes."""
    return split_words(LLAMA3_SPLIT)


def gpt2_words(add_prefix_space: bool = False) -> Any:
    """GPT-2's words, as bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)


def smollm_words() -> Any:
    """GPT-2's words, and every digit one of its own."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words()])


# By `tokenizer.ggml.pre`. DBRX (Phi-4 and Granite 4, too) and Smaug (SmolLM3) cut as Llama 3 does,
# and then do not take a whole word; Refact (Granite 3) and StarCoder cut as SmolLM does.
GGUF_WORDS: Mapping[str, Callable[[], Any]] = {
    "gpt-2": gpt2_words,
    **dict.fromkeys(("smollm", "refact", "starcoder"), smollm_words),
    **dict.fromkeys((*LLAMA3_PRE, "smaug-bpe", "dbrx"), llama3_words),
    **dict.fromkeys(QWEN2_PRE, lambda: split_words(QWEN2_SPLIT)),
    "gpt-4o": lambda: split_words(CASED_SPLIT),
    "tekken": lambda: split_words(TEKKEN_SPLIT),
}
