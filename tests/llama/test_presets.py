"""The presets: published parameter counts, what differs within a family, what a size means."""

from __future__ import annotations

import pytest

from llx.errors import BadInput
from llx.llama.presets import PRESETS, chosen_preset, families, preset_named, preset_of_size

# As published with the checkpoints. Code Llama's with 16 more tokens follow from their siblings:
# both tables have 16 more rows.
PARAMETERS = {
    "llama-1-7b": 6738415616,
    "llama-1-13b": 13015864320,
    "llama-1-33b": 32528943616,
    "llama-1-65b": 65285660672,
    "llama-2-7b": 6738415616,
    "llama-2-13b": 13015864320,
    "llama-2-70b": 68976648192,
    "code-llama-7b": 6738415616 + 2 * 16 * 4096,
    "code-llama-7b-python": 6738415616,
    "code-llama-13b": 13015864320 + 2 * 16 * 5120,
    "code-llama-13b-python": 13015864320,
    "code-llama-34b": 33743970304,
    "code-llama-70b": 68976648192 + 2 * 16 * 8192,
    "llama-3-8b": 8030261248,
    "llama-3-70b": 70553706496,
    "llama-3.1-8b": 8030261248,
    "llama-3.1-70b": 70553706496,
    "llama-3.1-405b": 405853388800,
    "llama-3.2-1b": 1235814400,
    "llama-3.2-3b": 3212749824,
    "llama-3.3-70b-instruct": 70553706496,
    "tinyllama-1.1b-chat": 1100048384,
    "smollm2-135m": 134515008,
    "smollm2-360m": 361821120,
    "smollm2-1.7b": 1711376384,
    "mistral-7b-v0.3": 7248023552,
    "mistral-7b-instruct-v0.2": 7241732096,
    "mistral-7b-v0.1": 7241732096,
    "mistral-nemo-12b": 12247782400,
    "qwen2.5-0.5b": 494032768,
    "qwen2.5-1.5b": 1543714304,
    "qwen2.5-3b": 3085938688,
    "qwen2.5-7b": 7615616512,
    "qwen2.5-14b": 14770033664,
    "qwen2.5-32b": 32763876352,
    "qwen2.5-72b": 72706203648,
    "qwen2.5-coder-0.5b": 494032768,
    "qwen2.5-coder-1.5b": 1543714304,
    "qwen2.5-coder-3b": 3085938688,
    "qwen2.5-coder-7b": 7615616512,
    "qwen2.5-coder-32b-instruct": 32763876352,
    "qwen3-0.6b": 596049920,
    "qwen3-1.7b": 1720574976,
    "qwen3-4b": 4022468096,
    "qwen3-8b": 8190735360,
    "qwen3-14b": 14768307200,
    "qwen3-32b": 32762123264,
    "deepseek-r1-distill-qwen-1.5b": 1777088000,
    "deepseek-r1-distill-qwen-7b": 7615616512,
    "deepseek-r1-distill-qwen-14b": 14770033664,
    "deepseek-r1-distill-llama-8b": 8030261248,
    "deepseek-r1-distill-llama-70b": 70553706496,
    "smollm3-3b": 3075098624,
    "granite-3.1-2b": 2533525504,
    "granite-3.1-2b-instruct": 2533531648,
    # The base of 8b has three rows of 4096 less, as that of 2b has.
    "granite-3.1-8b": 8170848256 - 3 * 4096,
    "granite-3.1-8b-instruct": 8170848256,
    "granite-3.3-8b-instruct": 8170864640,
    "phi-3-mini-4k-instruct": 3821079552,
    "yi-6b": 6061035520,
    "yi-34b": 34388917248,
}
# Sizes of which not all models have one spec: how many they have.
APART = {
    **{("Code Llama", size): 2 for size in ("7b", "13b", "70b")},  # vocabulary, context, theta
    ("Mistral", "7b"): 3,  # the window, theta, vocabulary
    **{("Qwen2.5", f"{size}b"): 2 for size in (1.5, 7, 14, 32, 72)},  # context, epsilon
    ("Qwen3", "4b"): 2,  # context and theta of those of July 2025
    **{("Granite 3.1", size): 2 for size in ("2b", "8b")},  # vocabulary
}
MEANT = {
    "7b": "llama-2-7b",
    "13b": "llama-2-13b",
    "70b": "llama-2-70b",
    "33b": "llama-1-33b",
    "65b": "llama-1-65b",
    "34b": "code-llama-34b",
    "8b": "llama-3.1-8b",
    "405b": "llama-3.1-405b",
    "1b": "llama-3.2-1b",
    "3b": "llama-3.2-3b",
    "1.1b": "tinyllama-1.1b-chat",
    "135m": "smollm2-135m-instruct",
    "360m": "smollm2-360m-instruct",
    "1.7b": "smollm2-1.7b-instruct",
    "12b": "mistral-nemo-12b",
    "0.5b": "qwen2.5-0.5b",
    "1.5b": "qwen2.5-1.5b",
    "14b": "qwen2.5-14b",
    "32b": "qwen2.5-32b",
    "72b": "qwen2.5-72b",
    "0.6b": "qwen3-0.6b",
    "4b": "qwen3-4b",
    "2b": "granite-3.1-2b",
    "mini": "phi-3-mini-4k-instruct",
    "6b": "yi-6b",
}


@pytest.mark.parametrize(("name", "published"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name, published):
    assert preset_named(name).spec.parameters == published


def test_every_family_and_size_has_a_published_count():
    counted = {(preset_named(n).family, preset_named(n).size) for n in PARAMETERS}
    assert counted == {(preset.family, preset.size) for preset in PRESETS}


def test_variants_of_a_size_differ_only_where_they_were_published_so():
    for presets in families().values():
        for size in {preset.size for preset in presets}:
            specs = {preset.spec for preset in presets if preset.size == size}
            family = presets[0].family
            assert len(specs) == APART.get((family, size), 1), (family, size)


@pytest.mark.parametrize(
    ("name", "vocab", "context", "theta"),
    [
        ("code-llama-7b", 32016, 16384, 1e6),
        ("code-llama-13b-instruct", 32016, 16384, 1e6),
        ("code-llama-13b-python", 32000, 16384, 1e6),
        ("code-llama-34b-instruct", 32000, 16384, 1e6),
        ("code-llama-70b", 32016, 16384, 1e6),
        ("code-llama-70b-python", 32016, 4096, 1e4),
        ("code-llama-70b-instruct", 32016, 4096, 1e4),
    ],
)
def test_code_llamas_are_told_apart(name, vocab, context, theta):
    spec = preset_named(name).spec
    assert (spec.vocab, spec.context, spec.rope.theta) == (vocab, context, theta)


@pytest.mark.parametrize(
    ("name", "epsilon"), [("llama-1-33b", 1e-6), ("llama-1-65b", 1e-5), ("llama-2-7b", 1e-5)]
)
def test_epsilon_of_the_first_llamas(name, epsilon):
    assert preset_named(name).spec.norm_eps == epsilon


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mistral-7b-v0.1", {"window": 4096, "windowed": tuple(range(32)), "vocab": 32000}),
        ("mistral-7b-instruct-v0.2", {"window": None, "windowed": (), "vocab": 32000}),
        ("mistral-7b-v0.3", {"window": None, "vocab": 32768}),
        ("mistral-nemo-12b", {"head_dim": 128, "q_dim": 4096, "dim": 5120}),
        ("qwen2.5-7b", {"qkv_bias": True, "attention_bias": False, "qk_norm": False}),
        ("qwen3-32b", {"qkv_bias": False, "qk_norm": True, "q_dim": 8192, "dim": 5120}),
        ("deepseek-r1-distill-qwen-7b", {"qkv_bias": True, "tied": False}),
        ("deepseek-r1-distill-llama-8b", {"qkv_bias": False, "qk_norm": False}),
        ("smollm3-3b", {"nope": (3, 7, 11, 15, 19, 23, 27, 31, 35), "window": None}),
        ("granite-3.1-2b", {"attention_scale": 0.015625, "logit_scale": 0.125}),
        ("granite-3.3-8b-instruct", {"attention_scale": 0.0078125, "logit_scale": 0.0625}),
        ("granite-3.3-8b-instruct", {"embed_scale": 12.0, "residual_scale": 0.22}),
        ("phi-3-mini-4k-instruct", {"window": 2047, "windowed": tuple(range(32)), "rotated": 96}),
        ("yi-34b", {"head_dim": 128, "qkv_bias": False}),
    ],
)
def test_the_kin_have_their_parts(name, parts):
    spec = preset_named(name).spec
    assert {part: getattr(spec, part) for part in parts} == parts


@pytest.mark.parametrize(
    ("name", "context", "theta", "epsilon"),
    [
        ("mistral-7b-v0.1", 32768, 1e4, 1e-5),
        ("mistral-7b-instruct-v0.2", 32768, 1e6, 1e-5),
        ("qwen2.5-1.5b", 131072, 1e6, 1e-6),
        ("qwen2.5-1.5b-instruct", 32768, 1e6, 1e-6),
        ("qwen2.5-14b", 131072, 1e6, 1e-5),
        ("qwen2.5-14b-instruct", 32768, 1e6, 1e-6),
        ("qwen3-4b", 40960, 1e6, 1e-6),
        ("qwen3-4b-thinking-2507", 262144, 5e6, 1e-6),
        ("deepseek-r1-distill-qwen-1.5b", 131072, 1e4, 1e-6),
        ("deepseek-r1-distill-qwen-14b", 131072, 1e6, 1e-5),
        ("smollm3-3b", 65536, 5e6, 1e-6),
        ("granite-3.1-2b", 131072, 5e6, 1e-5),
        ("granite-3.1-8b", 131072, 1e7, 1e-5),
        ("phi-3-mini-4k-instruct", 4096, 1e4, 1e-5),
        ("yi-6b", 4096, 5e6, 1e-5),
    ],
)
def test_contexts_thetas_and_epsilons_of_the_kin(name, context, theta, epsilon):
    spec = preset_named(name).spec
    assert (spec.context, spec.rope.theta, spec.norm_eps) == (context, theta, epsilon)


def test_names_and_repositories_are_unique():
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    assert len({preset.hub_id for preset in PRESETS}) == len(PRESETS)
    assert all(preset_named(preset.name.upper()) is preset for preset in PRESETS)
    assert all(preset.size in preset.name.split("-") for preset in PRESETS)


def test_a_size_alone_means_one_model():
    assert {preset.size: preset_of_size(preset.size).name for preset in PRESETS} == MEANT


@pytest.mark.parametrize(
    ("size", "family", "name"),
    [
        ("7b", "llama1", "llama-1-7b"),
        ("7B", "Code Llama", "code-llama-7b"),
        ("70b", "codellama", "code-llama-70b"),
        ("70b", "llama-3", "llama-3-70b"),
        ("70b", "llama3.3", "llama-3.3-70b-instruct"),
        ("8b", "llama3", "llama-3-8b"),
        ("135m", "SmolLM2", "smollm2-135m-instruct"),
        ("7b", "mistral", "mistral-7b-v0.3"),
        ("7b", "qwen2.5", "qwen2.5-7b"),
        ("8B", "Qwen3", "qwen3-8b"),
        ("3b", "smollm3", "smollm3-3b"),
        ("8b", "deepseek-r1-distill", "deepseek-r1-distill-llama-8b"),
        ("mini", "phi-3", "phi-3-mini-4k-instruct"),
    ],
)
def test_a_size_of_a_family_means_its_plain_model(size, family, name):
    preset = chosen_preset(size=size, family=family)
    assert preset is preset_named(name)


def test_nothing_chosen_is_no_preset():
    assert chosen_preset() is None


@pytest.mark.parametrize(
    "chosen",
    [
        {"size": "7b", "model": "llama-2-7b"},
        {"family": "llama2", "model": "llama-2-7b"},
        {"family": "llama2"},
        {"family": "gpt", "size": "7b"},
        {"family": "llama2", "size": "8b"},
        {"size": "9b"},
        {"model": "llama-9"},
    ],
)
def test_a_choice_of_none_or_two_models_is_refused(chosen):
    with pytest.raises(BadInput):
        chosen_preset(**chosen)
