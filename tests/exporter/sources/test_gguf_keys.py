"""Keys of a GGUF file: each typed and within its range, the defaults llama.cpp's."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import msgspec
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.exporter.sources import check_coverage, open_source
from llx.exporter.sources.gguf_keys import Keys, RopeKeys
from llx.llama.spec import RopeSpec
from tests.checkpoints import LINEAR, MHA, TINY, YARN, random_tensors, write_gguf
from tests.exporter.sources.opened import opened

U32, I32, U64, F32, F64 = (
    getattr(GGUFValueType, name) for name in ("UINT32", "INT32", "UINT64", "FLOAT32", "FLOAT64")
)
BOOL, TEXT, ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY
SQUARE = replace(TINY, dim=60)  # H·D = dim, so that key_length may be left out


def write(path, spec=SQUARE, **changes):
    """A file with keys changed, dots spelled as two underscores; None leaves one out."""

    def describe(writer):
        for name, value in changes.items():
            key = name.replace("__", ".")
            key = key if key.startswith("general.") else f"llama.{key}"
            if value is None:
                writer.kv_data[0].pop(key, None)
            else:
                writer.kv_data[0][key] = value

    return write_gguf(path, spec, random_tensors(spec), describe=describe)


def of(value, kind=None):
    """A value as it is stored."""
    kinds = {bool: BOOL, int: U32, float: F32, str: TEXT, list: ARRAY}
    kind = kind or kinds[type(value)]
    return GGUFValue(value, kind, U32 if kind == ARRAY else None)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        ({"attention__key_length": None}, SQUARE),
        ({"rope__freq_base": None}, SQUARE),
        ({"rope__dimension_count": of(10)}, SQUARE),
        ({"attention__key_length": None, "rope__dimension_count": of(10)}, SQUARE),
        ({"attention__value_length": of(10)}, SQUARE),
        ({"attention__head_count_kv": None}, replace(MHA, dim=60)),
        ({"attention__head_count": of([6, 6])}, SQUARE),
        ({"attention__head_count_kv": of([2, 2])}, SQUARE),
        ({"feed_forward_length": of([52, 52])}, SQUARE),
        ({"block_count": of(2, U64)}, SQUARE),
        ({"block_count": of(2, I32)}, SQUARE),
        ({"rope__freq_base": of(10000.0, F64)}, SQUARE),
        ({"expert_count": of(0)}, SQUARE),
        ({"attention__causal": of(True)}, SQUARE),
        ({"general__type": of("model")}, SQUARE),
        ({"rope__scaling__factor": of(0.0)}, SQUARE),
        ({"rope__scaling__original_context_length": of(24)}, YARN),
        ({}, LINEAR),
    ],
)
def test_a_key_that_may_be_absent_or_spelled_otherwise(file, changes, spec):
    source = open_source(write(file, spec, **changes))
    assert source.spec == spec
    assert source.warnings == []
    assert check_coverage(source) == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block_count": None}, r"llama\.block_count is missing"),
        ({"context_length": None}, r"llama\.context_length is missing"),
        ({"attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
        ({"block_count": of(10**9)}, "block_count is 1000000000"),
        ({"block_count": of(0)}, "block_count is 0"),
        ({"block_count": of(-1, I32)}, "block_count is -1"),
        ({"block_count": of([2, 2])}, r"block_count is \[2, 2\]"),
        ({"block_count": of("2")}, "block_count is '2'"),
        ({"block_count": of(True)}, "block_count is True"),
        ({"block_count": of(2.0)}, "block_count is 2.0"),
        ({"attention__layer_norm_rms_epsilon": of(math.nan)}, "rms_epsilon is nan"),
        ({"attention__layer_norm_rms_epsilon": of(-1.0)}, "rms_epsilon is -1.0"),
        ({"attention__head_count": of([6, 5])}, r"head_count \[6, 5\]: not the same"),
        ({"attention__head_count": of([6])}, "not the same for each of 2 layers"),
        ({"attention__value_length": of(8)}, "values of 8 a head .* and keys of 10"),
        ({"rope__dimension_count": of(8)}, "rotates 8 of the 10"),
        ({"expert_count": of(8)}, "expert_count 8: a mixture of experts"),
        ({"attention__causal": of(False)}, "a token sees those after it"),
        ({"rope__scaling__type": of(5)}, r"rope\.scaling\.type is 5"),
        ({"rope__freq_base": of(math.inf)}, "freq_base is inf"),
        ({"rope__freq_base": of(0.0)}, "freq_base is 0.0"),
        ({"rope__freq_base": of(1e300, F64)}, "freq_base is inf"),
        ({"general__architecture": of(5)}, r"general\.architecture is 5"),
        ({"general__architecture": of([5])}, r"general\.architecture is \[5\]"),
        ({"general__architecture": None}, r"does not say general\.architecture"),
        ({"general__architecture": of("mistral3\n")}, r"architecture is mistral3\\n, not llama"),
        ({"general__type": of("adapter")}, "is of type adapter"),
    ],
)
def test_what_a_key_cannot_be_is_refused_by_its_name(file, changes, says):
    with pytest.raises(BadInput, match=says) as refused:
        open_source(write(file, **changes))
    assert "\n" not in str(refused.value)
    assert "download" not in str(refused.value)


def test_text_that_is_not_unicode_is_refused(file):
    write(file, general__name=of("nonsense"))
    file.write_bytes(file.read_bytes().replace(b"nonsense", b"nons\xff\xfe\xfd\xfc"))
    with pytest.raises(BadInput, match="a key that cannot be read"):
        open_source(file)


def test_keys_that_no_llama_reads_are_said(file):
    changes = {"logit_scale": of(8.0), "attention__sliding_window": of(4096)}
    source = open_source(write(file, **changes, embedding_scale=of(0.0)))
    assert source.spec == SQUARE
    assert len(source.warnings) == 1
    assert "llama.logit_scale, llama.attention.sliding_window, which no" in source.warnings[0]


NAMES = [field.encode_name for field in msgspec.structs.fields(Keys)]
NAMES += [f"rope.{field.encode_name}" for field in msgspec.structs.fields(RopeKeys)]
VALUES = (
    *((n, U32) for n in (0, 1, 2, 6, 10, 10**9, 2**32 - 1)),
    *((n, I32) for n in (-1, 2, -(2**31))),
    *((n, U64) for n in (2, 2**40, 2**64 - 1)),
    *((x, F32) for x in (0.0, 0.5, 1.0, 1e-5, 10000.0, -1.0, 1e30, math.nan, math.inf)),
    *((x, F64) for x in (1e-5, 1e300, -math.inf)),
    *((True, BOOL), (False, BOOL), ("", TEXT), ("yarn", TEXT), ("a\nb", TEXT), ([2], ARRAY)),
    *(([2, 2], ARRAY), ([6, 6], ARRAY), ([2, 3], ARRAY), ([10**9] * 2, ARRAY), (None, None)),
)
GRID = list(itertools.product(("plain", "yarn"), NAMES, VALUES))
SPECS = {"plain": SQUARE, "yarn": replace(YARN, dim=60)}
# Fields of the spec that a key decides: with it they may be others, nothing else may.
DECIDES = {
    "context_length": {"context", "rope"},
    "attention.layer_norm_rms_epsilon": {"norm_eps"},
}


def hold(folder, kind, name, stored):
    value, as_kind = stored
    spec = SPECS[kind]
    changed = None if value is None else of(value, as_kind)
    path = write(folder / "tiny.gguf", spec, **{name.replace(".", "__"): changed})
    case = (kind, name, stored)
    source = opened(path)
    if isinstance(source, BadInput):
        leaf = name.rsplit(".", 1)[-1]
        words = (leaf, "model needs", "lacks", "holds", "RoPE", "KV heads", "heads", "head_dim")
        assert any(word in str(source) for word in words), (case, source)
        return "refused"
    may = DECIDES.get(name, {"rope"} if name.startswith("rope.") else set())
    found = {field: getattr(source.spec, field) for field in source.spec.__dataclass_fields__}
    for field, one in found.items():
        assert field in may or one == getattr(spec, field), (case, field, one)
    rope = source.spec.rope
    if name == "rope.freq_base" and value is not None:
        assert rope.theta == value, case
    if name == "rope.scaling.factor" and kind == "plain":
        assert rope == (
            RopeSpec(type="linear", factor=value) if value not in (0, 1, None) else RopeSpec()
        ), case
    return "read"


@given(st.sampled_from(GRID))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_any_key_is_refused_by_name_or_read(tmp_path_factory, change):
    hold(tmp_path_factory.mktemp("gguf"), *change)


@pytest.mark.slow
def test_every_value_of_every_key_is_refused_by_name_or_read(tmp_path):
    ends = [hold(tmp_path, *change) for change in GRID]
    print(f"{len(ends)} values: {ends.count('read')} read, {ends.count('refused')} refused")
    assert {"read", "refused"} == set(ends)
