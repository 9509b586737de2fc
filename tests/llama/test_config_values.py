"""Every value of every key of config.json, held against transformers on a small model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.llama.config import spec_from_config
from llx.llama.spec import RopeSpec
from tests.llama.oracle import (
    ABSENT,
    BASES,
    FULL,
    KIN,
    LENGTH,
    SIZES,
    SLIDING,
    TOLERANCE,
    VALUES,
    base_config,
    changed,
    grid,
    ours,
    own_keys,
    theirs,
)

GRID = grid()
# transformers builds whatever size it is told: beyond this it is not asked where llx refuses.
SIZED = (*SIZES, "partial_rotary_factor")
MOST_BUILT = 64


# What transformers computes something with though it contradicts another value: a blend whose ends
# are swapped, half a position.
CONTRADICTING = {
    "low_freq_factor": (4, 4096, 4.0, 16.0, 4096.0),
    "high_freq_factor": (0.5, 1.0),
    "beta_fast": (0.5,),
    "beta_slow": (3, 4096, 4.0, 16.0, 4096.0),
    "rope_theta": (0.5,),
    "original_max_position_embeddings": (0.5,),
    "is_causal": (None,),
    # Other names of a switch, whose type transformers does not look at.
    "qkv_bias": (1, 1.0),
    "bias": (1, 1.0),
    "no_rope_layer_interval": (1,),  # leaves RoPE in no layer
}
# Texts and the like, which transformers looks at as true or false, or not at all in some cases.
NAMES = ("type", "rope_type", "hidden_act", "truncate", "partial_rotary_factor", "rope_theta")


def may_be_refused(base, path, value):
    """Whether transformers computes something with a value that means nothing.

    A yes, a list or a text for a number, nothing or less where something is counted, a number that
    no float32 holds exactly enough, a RoPE of some of the layers: llx refuses these by name.
    """
    if isinstance(value, (bool, str, dict, list)):
        return True
    if isinstance(value, (int, float)) and not 1e-4 <= value < 1e7:
        return True
    if base in KIN and path[-1] == "is_causal":  # which some of them look at as true or false
        return True
    return path[-1] in NAMES or value in CONTRADICTING.get(path[-1], ())


# How a refusal says it where values do not fit one another, or the tensors.
OTHER_WORDS = ("the model needs", "lacks", "KV heads", "RoPE theta")
KIN_WORDS = (
    *("layer_types", "RoPE in no layer", "1 layers", "longrope needs", "values of a head"),
    *OTHER_WORDS,
)


def hold(base, path, value):
    """One line that names the key, or the logits of transformers; returns which."""
    config, spec = changed(base, path, value), BASES[base][0]
    mine = ours(config, spec)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    refused = isinstance(mine, BadInput)
    unbuilt = refused and path[-1] in SIZED and is_number and value > MOST_BUILT
    wanted = None if unbuilt else theirs(config, spec, LENGTH if refused else len(mine))
    case = (base, path, value if value is not ABSENT else "absent")
    if isinstance(mine, BadInput):
        assert "\n" not in str(mine), case
        words = KIN_WORDS if base in KIN else OTHER_WORDS
        assert any(w in str(mine) for w in (*path, *words)), (
            case,
            mine,
        )
        assert wanted is None or may_be_refused(base, path, value), (case, mine)
        return "refused"
    assert wanted is not None, case
    size = max(1.0, np.abs(wanted).max()) if base == "granite" else 1.0  # logits by the thousand
    assert np.abs(mine - wanted).max() < TOLERANCE * size, case
    return "equal"


@given(st.sampled_from(GRID))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_any_key_is_refused_by_name_or_read_as_transformers_does(change):
    hold(*change)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("base", BASES)
def test_every_value_of_every_key_is_refused_by_name_or_read_as_transformers_does(base):
    ends = [hold(*change) for change in GRID if change[0] == base]
    print(f"{len(ends)} values: {ends.count('equal')} equal, {ends.count('refused')} refused")
    assert {"equal", "refused"} == set(ends)


TYPES = st.sampled_from([SLIDING, FULL, FULL, "attention", "chunked_attention"])
LAYERED = {
    "use_sliding_window": st.booleans(),
    "sliding_window": st.none() | st.integers(1, 110),
    "max_window_layers": st.integers(0, 4),
    "layer_types": st.none() | st.lists(TYPES, min_size=1, max_size=3),
    "no_rope_layers": st.none() | st.lists(st.integers(0, 1), min_size=1, max_size=3),
    "no_rope_layer_interval": st.integers(1, 4),
}


@st.composite
def layered(draw):
    """A base and some of its family's keys of windows and layers, each with a sound value."""
    base = draw(st.sampled_from(sorted(KIN)))
    keys = sorted(own_keys(base) & LAYERED.keys())
    values = {key: draw(LAYERED[key]) for key in keys if draw(st.booleans())}
    return base, values | {"max_position_embeddings": draw(st.sampled_from([8, 40, 96]))}


@given(layered())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_windows_and_layers_are_read_as_transformers_does_or_fail_there_too(case):
    base, values = case
    config, spec = base_config(base) | values, BASES[base][0]
    mine = ours(config, spec)
    if isinstance(mine, BadInput):
        assert any(key in str(mine) for key in LAYERED), mine
        assert theirs(config, spec) is None or "RoPE in no layer" in str(mine)
        return
    assert np.abs(mine - theirs(config, spec, len(mine))).max() < TOLERANCE


@pytest.mark.parametrize("base", BASES)
def test_what_every_value_is_laid_over_is_read_exactly(base):
    config, spec = base_config(base), BASES[base][0]
    mine = ours(config, spec)
    assert np.abs(mine - theirs(config, spec, len(mine))).max() < 1e-5


def test_base_configs_are_scaled():
    """The grid is laid over every RoPE that is known."""
    kinds = {spec_from_config(base_config(base)).rope.type for base in BASES}
    assert kinds == {"default", "linear", "dynamic", "llama3", "yarn", "longrope"}
    assert RopeSpec() != spec_from_config(base_config("default")).rope
    assert len(VALUES) > 40
