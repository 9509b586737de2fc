"""How a text is cut into words, before those become tokens: Llama 3's way, GPT-2's and SmolLM's.

A GGUF file names them as `tokenizer.ggml.pre`, by llama.cpp's words (src/llama-vocab.cpp there).
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


def llama3_words() -> Any:
    """Llama 3's words, as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2_words(add_prefix_space: bool = False) -> Any:
    """GPT-2's words, as bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)


def smollm_words() -> Any:
    """GPT-2's words, and every digit one of its own."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words()])


# By `tokenizer.ggml.pre`. DBRX and Smaug cut as Llama 3 does, and then do not take a whole word.
GGUF_WORDS: Mapping[str, Callable[[], Any]] = {
    "smollm": smollm_words,
    "gpt-2": gpt2_words,
    **dict.fromkeys((*LLAMA3_PRE, "smaug-bpe", "dbrx"), llama3_words),
}
