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
}


@pytest.mark.parametrize(("name", "published"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name, published):
    assert preset_named(name).spec.parameters == published


def test_every_family_and_size_has_a_published_count():
    counted = {(preset_named(n).family, preset_named(n).size) for n in PARAMETERS}
    assert counted == {(preset.family, preset.size) for preset in PRESETS}


def test_variants_of_a_size_differ_only_where_they_were_published_so():
    """Code Llama's vocabulary, and its 70b's context and theta; nothing else differs."""
    for presets in families().values():
        for size in {preset.size for preset in presets}:
            specs = {preset.spec for preset in presets if preset.size == size}
            apart = presets[0].family == "Code Llama" and size != "34b"
            assert len(specs) == (2 if apart else 1), (presets[0].family, size)


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
