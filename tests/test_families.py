"""A model of every family, small, as transformers saves it: llx answers as transformers does.

Weights are random, and the tokenizers are trained here, of the kinds that the families have; all
else, such as RoPE, epsilons, tied tables, special tokens and templates, is as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import llx
from llx.bench.generate import chat_prompt
from llx.bench.text import tokenizer_of
from llx.exporter.vocabulary.words import LLAMA3_SPECIAL
from llx.llama.presets import Preset, families
from tests.checkpoints import config_of, random_tensors
from tests.conversations import DEEPSEEK_R1, GRANITE_3, MISTRAL, QWEN_3, SMOLLM_3
from tests.exporter.vocabularies import train, train_ranks

TEXTS = ("Hello, world!", "  two spaces", "naïve 漢字 🙂\n\nend", "x = 12345", "")

INST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Turns must go user, assistant, user, …') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system ~ '\n\n' if loop.first and system else '') "
    "+ message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADERS = (
    "{{- bos_token }}\n"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}\n"
    "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string }}\n"
    "{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}{{- '<|eot_id|>' }}\n"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
    "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] "
    "+ eos_token }}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
    "{% endif %}\n{% endfor %}"
)


def sentencepiece(folder: Path, template: str | None) -> Any:
    from transformers import AutoTokenizer

    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(train(vocab_size=600))
    named = '"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"'
    settings = f'{{"tokenizer_class": "LlamaTokenizer", {named}, "add_bos_token": true}}'
    (folder / "tokenizer_config.json").write_text(settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def ranks(folder: Path, template: str | None) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    from llx.exporter.vocabulary import read_tokenizer_model
    from tests.exporter.vocabularies import built, write_ranks

    folder.mkdir()
    made = built(read_tokenizer_model(write_ranks(folder / "tokenizer.model", train_ranks(600))))
    begin = LLAMA3_SPECIAL[0]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=begin,
        eos_token="<|eot_id|>",
        clean_up_tokenization_spaces=True,
    )
    tokenizer.chat_template = template
    return tokenizer


def byte_level(folder: Path, template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2TokenizerFast

    from tests.exporter.vocabularies import LINES

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(LINES[:2000], trainer)
    tokenizer = GPT2TokenizerFast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


Kind = Callable[[Path, str | None], Any]
KINDS: dict[str, tuple[Kind, str | None]] = {
    "llama1": (sentencepiece, None),
    "llama2": (sentencepiece, INST),
    "codellama": (sentencepiece, INST),
    "llama3": (ranks, HEADERS),
    "llama3.1": (ranks, HEADERS),
    "llama3.2": (ranks, HEADERS),
    "llama3.3": (ranks, HEADERS),
    "tinyllama": (sentencepiece, ZEPHYR),
    "smollm2": (byte_level, CHATML),
    "mistral": (sentencepiece, MISTRAL),
    "qwen2.5": (byte_level, CHATML),
    "qwen2.5coder": (byte_level, CHATML),
    "qwen3": (byte_level, QWEN_3),
    "deepseekr1distill": (byte_level, DEEPSEEK_R1),
    "smollm3": (byte_level, SMOLLM_3),
    "granite3.1": (byte_level, GRANITE_3),
    "granite3.3": (byte_level, GRANITE_3),
    "phi3": (sentencepiece, PHI),
    "yi": (sentencepiece, CHATML),
}
# What transformers calls a family where the spec's parts do not say it.
NAMED = {
    "mistral": {"model_type": "mistral"},
    "phi3": {"model_type": "phi3", "pad_token_id": None},
}


def small(preset: Preset, vocab: int) -> Any:
    """The preset's spec with little of everything, its heads sharing KV heads as they do."""
    share = preset.spec.heads // preset.spec.kv_heads
    heads = max(share, 2)
    spec, layers = preset.spec, 4 if preset.spec.nope else 2
    return replace(
        spec,
        layers=layers,
        window=spec.window and 7,
        windowed=spec.windowed[:layers],
        nope=spec.nope[:1],
        dim=48,
        heads=heads,
        kv_heads=heads // share,
        head_dim=8,
        ffn_dim=80,
        vocab=vocab,
    )


def saved(folder: Path, preset: Preset) -> tuple[Any, Any]:
    """A model and its tokenizer, as `save_pretrained` writes both into the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    kind, template = KINDS[preset.family_key]
    tokenizer = kind(folder.with_name("tokenizer"), template)
    spec = small(preset, len(tokenizer) + 3)  # rows beyond the tokenizer's tokens, as many have
    settings = config_of(spec) | NAMED.get(preset.family_key, {})
    config = AutoConfig.for_model(
        **settings | {"sliding_window": spec.window},
        bos_token_id=tokenizer.bos_token_id,
    )
    config.eos_token_id = tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(config).eval()
    tensors = random_tensors(spec)
    if preset.family_key == "phi3":
        tensors = packed(tensors)
    missing = model.load_state_dict(tensors, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"} if spec.tied else not missing
    model.tie_weights()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def packed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As Phi-3 has them: q, k and v in one, gate and up in one."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part = next((part for part in PACKED if part in name), "")
        found.setdefault(name.replace(part, PACKED.get(part, "")), []).append(tensor)
    return {name: torch.cat(parts) for name, parts in found.items()}


PACKED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
}


def test_every_family_is_here():
    assert set(KINDS) == set(families())


# One of each kind of tokenizer, and one of each part.
QUICK = (
    "llama2",
    "llama3.2",
    "smollm2",
    "mistral",
    "qwen2.5",
    "qwen3",
    "smollm3",
    "granite3.3",
    "phi3",
)
EACH = [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in KINDS]


@pytest.mark.parametrize("family", EACH)
def test_a_family_saved_by_transformers_answers_as_there(tmp_path, family):
    from transformers import AutoTokenizer

    preset = max(families()[family], key=lambda p: len(p.spec.parts))
    model, _ = saved(tmp_path / "saved", preset)
    told: list[str] = []
    artifact = llx.export(
        weights=tmp_path / "saved", output=tmp_path / "artifact", context=96, tell=told.append
    )
    assert told == []
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "saved"), tokenizer_of(artifact)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text).ids == ids, text
        bare = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == bare, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    assert theirs.eos_token_id in artifact.manifest.text.eos_ids
    prompt = "Why is the sky blue?"
    if theirs.chat_template:
        asked = [{"role": "user", "content": prompt}]
        wanted = theirs.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert chat_prompt(artifact, prompt) == wanted
    ids = theirs(prompt)["input_ids"]
    with torch.no_grad():
        wanted_logits = model(torch.tensor([ids])).logits[0].numpy()
        continued = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0]
    with artifact.session() as session:
        logits = session.step(ids, every=True)[0]
        assert np.abs(logits - wanted_logits).max() < 1e-3
        answer, last = [], logits[-1]
        for _ in continued[len(ids) :]:
            answer.append(int(last.argmax()))
            last = session.step(answer[-1:])[0]
    assert answer == continued[len(ids) :].tolist()
    text = "".join(llx.generate(artifact, prompt, tokens=12))
    whole = theirs.decode(continued, skip_special_tokens=True)
    # Of bytes that make no character, what was said is not taken back when more of them come.
    if whole.isascii():
        assert whole == theirs.decode(ids, skip_special_tokens=True) + text
