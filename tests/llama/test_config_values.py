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
    BLOCKS,
    LENGTH,
    SIZES,
    TOLERANCE,
    VALUES,
    base_config,
    changed,
    grid,
    ours,
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
}
# Texts and the like, which transformers looks at as true or false, or not at all in some cases.
NAMES = ("type", "rope_type", "hidden_act", "truncate", "partial_rotary_factor", "rope_theta")


def may_be_refused(path, value):
    """Whether transformers computes something with a value that means nothing.

    A yes, a list or a text for a number, nothing or less where something is counted, a number that
    no float32 holds exactly enough, a RoPE of some of the layers: llx refuses these by name.
    """
    if isinstance(value, (bool, str, dict, list)):
        return True
    if isinstance(value, (int, float)) and not 1e-4 <= value < 1e7:
        return True
    return path[-1] in NAMES or value in CONTRADICTING.get(path[-1], ())


# How a refusal says it where values do not fit one another, or the tensors.
OTHER_WORDS = ("the model needs", "lacks", "KV heads", "RoPE theta")


def hold(block, path, value):
    """One line that names the key, or the logits of transformers; returns which."""
    config = changed(block, path, value)
    mine = ours(config)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    refused = isinstance(mine, BadInput)
    unbuilt = refused and path[-1] in SIZED and is_number and value > MOST_BUILT
    wanted = None if unbuilt else theirs(config, LENGTH if refused else len(mine))
    case = (block, path, value if value is not ABSENT else "absent")
    if isinstance(mine, BadInput):
        assert "\n" not in str(mine), case
        assert any(w in str(mine) for w in (*path, *OTHER_WORDS)), (
            case,
            mine,
        )
        assert wanted is None or may_be_refused(path, value), (case, mine)
        return "refused"
    assert wanted is not None, case
    assert np.abs(mine - wanted).max() < TOLERANCE, case
    return "equal"


@given(st.sampled_from(GRID))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_any_key_is_refused_by_name_or_read_as_transformers_does(change):
    hold(*change)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_value_of_every_key_is_refused_by_name_or_read_as_transformers_does():
    ends = [hold(*change) for change in GRID]
    print(f"{len(ends)} values: {ends.count('equal')} equal, {ends.count('refused')} refused")
    assert {"equal", "refused"} == set(ends)


def test_base_configs_are_scaled():
    """The grid is laid over every RoPE that is known."""
    kinds = {spec_from_config(base_config(block)).rope.type for block in BLOCKS}
    assert kinds == {"default", "linear", "dynamic", "llama3", "yarn"}
    assert RopeSpec() != spec_from_config(base_config("default")).rope
    assert len(VALUES) > 40
