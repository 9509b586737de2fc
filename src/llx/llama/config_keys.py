"""Keys of a config.json: which decide the model's arithmetic, and which say nothing of it.

What transformers does is the measure: `LlamaConfig` keeps whatever key it is given, and
`LlamaForCausalLM` looks at a few; so do its kin's. The others may still be another model's
arithmetic, such as Granite's multipliers in a checkpoint that was renamed to LLaMA, or biases that
a Mistral does not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from llx.typed import plainly

# What `llx.llama.config` reads or refuses beside a family's own keys; the last says where the
# weights are.
READ = frozenset(
    {
        *("architectures", "model_type", "quantization_config"),
        *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
        *("original_max_position_embeddings",),
        *("is_causal", "per_layer_config", "text_config", "compression_config"),
        *("configuration_files", "transformers_weights"),
    }
)
# What changes no logits of an exported model: of training, of generation, of how a file was saved
# or is to be loaded, of heads that are not exported, and what common tools leave behind.
SILENT = frozenset(
    {
        # LlamaConfig's and its base class's own.
        *("initializer_range", "attention_dropout", "pretraining_tp", "use_cache"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
        *("transformers_version", "dtype", "torch_dtype", "return_dict", "use_return_dict"),
        *("output_hidden_states", "output_attentions", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "tie_encoder_decoder"),
        *("cross_attention_hidden_size", "pruned_heads", "torchscript", "use_bfloat16"),
        *("tf_legacy_loss", "task_specific_params", "finetuning_task", "tokenizer_class"),
        *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout"),
        *("name_or_path", "_name_or_path", "_commit_hash", "auto_map", "custom_pipelines"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation_internal", "attn_dropout"),
        *("_attn_implementation_autoset", "_flash_attn_2_enabled", "use_flash_attn"),
        *("gradient_checkpointing", "distributed_config", "fusion_config"),
        # GenerationConfig's, which transformers drops from a model's configuration.
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("bad_words_ids", "begin_suppress_tokens", "cache_config", "cache_implementation"),
        *("constraints", "disable_compile", "diversity_penalty", "do_sample", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff"),
        *("eta_cutoff", "exponential_decay_length_penalty", "force_words_ids", "guidance_scale"),
        *("forced_bos_token_id", "forced_eos_token_id", "generation_kwargs", "is_assistant"),
        *("length_penalty", "low_memory", "max_length", "max_matching_ngram_size", "max_time"),
        *("max_new_tokens", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams"),
        *("num_return_sequences", "output_logits", "output_scores", "penalty_alpha"),
        *("prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values"),
        *("renormalize_logits", "repetition_penalty", "return_dict_in_generate"),
        *("return_legacy_cache", "sequence_bias", "stop_strings", "suppress_tokens"),
        *("target_lookbehind", "temperature", "token_healing", "top_k", "top_p", "typical_p"),
        *("use_model_defaults", "watermarking_config", "compile_config", "top_h"),
        # Of other families, which do nothing without their other keys.
        *("max_window_layers", "no_rope_layer_interval", "resid_pdrop", "embd_pdrop"),
        "residual_dropout",
        # Of conversions and fine-tuning.
        *("is_llama_config", "max_sequence_length", "model_max_length", "tokenizer_padding_side"),
        *("tokenizer_model_max_length", "pad_token", "unsloth_fixed", "unsloth_version"),
        *("transformers.js_config", "unsloth_training_args", "base_model_name", "license"),
    }
)
# What says nothing at one value alone: switches of Phi-3's own code that are off.
SILENT_AT = {"full_attn_mod": 1, "interpolate_factor": 1}
MOST_NAMED = 20
ALIKE = 0.85  # of difflib's ratio: a letter or two


def unread(config: Mapping[str, Any], own: frozenset[str]) -> list[str]:
    """Keys that say something and that are not read: no null, no false, nothing empty.

    `own`: those that its family reads.
    """
    return [
        key
        for key, value in config.items()
        if key not in READ | SILENT | own and value and value != SILENT_AT.get(key)
    ]


def unread_line(
    keys: list[str], config: Mapping[str, Any], own: frozenset[str], family: str
) -> str:
    """What the user is told of them, and which key that is not there each may be meant for."""
    named = ", ".join(f"{plainly(key)}{_meant(key, config, own)}" for key in keys[:MOST_NAMED])
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    window = ""
    if "sliding_window" in keys:
        window = " (whose generate would forget what lies further back than sliding_window)"
    return (
        f"config.json has {named}{more}, which no {family} reads, here or in transformers{window}: "
        "a model that was trained with such arithmetic would answer otherwise"
    )


def _meant(key: str, config: Mapping[str, Any], own: frozenset[str]) -> str:
    """A key that is read, is not there and is spelt almost so."""
    free = sorted((READ | own) - config.keys())
    found = difflib.get_close_matches(key[:100], free, 1, ALIKE)
    return f" (is {found[0]} meant?)" if found else ""
