"""Zero is a number: a model with zeros in it exports, answers as PyTorch does, is checked."""

from __future__ import annotations

import pytest

import llx
from llx.precision import PRECISIONS
from tests.checkpoints import BIASED, MHA, TINY, random_tensors, write_checkpoint

ZEROED = {
    "one channel of o": lambda t: t["model.layers.0.self_attn.o_proj.weight"][3].zero_(),
    "one input of down": lambda t: t["model.layers.1.mlp.down_proj.weight"][:, 7].zero_(),
    "a whole down": lambda t: t["model.layers.0.mlp.down_proj.weight"].zero_(),
    "a whole o": lambda t: t["model.layers.1.self_attn.o_proj.weight"].zero_(),
    "a whole gate": lambda t: t["model.layers.0.mlp.gate_proj.weight"].zero_(),
    "a whole up": lambda t: t["model.layers.0.mlp.up_proj.weight"].zero_(),
    "all of q": lambda t: t["model.layers.0.self_attn.q_proj.weight"].zero_(),
    "all of v": lambda t: t["model.layers.0.self_attn.v_proj.weight"].zero_(),
    "a norm": lambda t: t["model.layers.0.input_layernorm.weight"].zero_(),
    "one channel of a norm": lambda t: t["model.layers.1.post_attention_layernorm.weight"][
        5
    ].zero_(),
    "the last norm": lambda t: t["model.norm.weight"].zero_(),
    "a token": lambda t: t["model.embed_tokens.weight"][65].zero_(),
    "the whole vocabulary": lambda t: t["model.embed_tokens.weight"].zero_(),
    "everything": lambda t: [tensor.zero_() for tensor in t.values()],
}
slow = pytest.mark.slow
SHAPES = {"gqa": TINY, "mha-tied": MHA, "biased": BIASED}


QUICK = {"a whole o": "int8", "a norm": "int4", "everything": "fp32"}
GRID = [
    pytest.param(zeroed, precision, marks=() if QUICK.get(zeroed) == precision else slow)
    for zeroed in ZEROED
    for precision in PRECISIONS
]


@pytest.mark.parametrize(("zeroed", "precision"), GRID)
def test_a_model_with_zeros_exports_and_passes_its_check(tmp_path, zeroed, precision):
    shape = list(SHAPES)[len(zeroed) % len(SHAPES)]
    tensors = random_tensors(SHAPES[shape])
    ZEROED[zeroed](tensors)
    folder = write_checkpoint(tmp_path / "checkpoint", SHAPES[shape], tensors)
    quantized = PRECISIONS[precision].linear != "dense"
    artifact = llx.export(
        weights=folder,
        precision=precision,
        output=tmp_path / "artifact",
        calibration_windows=2 if quantized else None,
    )
    found = llx.check(artifact)
    assert any(line.startswith("parity of ort") for line in found), found
