"""What `llx export` says of an artifact: what it cannot hold, and what helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llx.manifest import TOKENIZER, UNREAD, CastCounts
from llx.reports.artifacts import artifact_in_words


def changed(artifact, **values):
    return replace(artifact, manifest=replace(artifact.manifest, **values))


@pytest.mark.parametrize("made", [True, False])
def test_weights_that_overflow_are_told_with_what_follows_and_what_helps(tiny, made):
    said = artifact_in_words(changed(tiny, casts=CastCounts(overflowed=3)), made)
    assert "cannot hold 3 weights" in said
    assert "NaN or inf" in said
    assert "--precision bf16 or fp32" in said
    small = artifact_in_words(changed(tiny, casts=CastCounts(underflowed=30)), made)
    assert "warning: fp32 cannot hold 30 weights of 44,532" in small
    assert "NaN" not in small
    one = artifact_in_words(changed(tiny, casts=CastCounts(underflowed=1)), made)
    assert "note: fp32 cannot hold 1 weight of" in one
    assert "next to nothing" in one
    assert "cannot hold" not in artifact_in_words(changed(tiny, casts=CastCounts()), made)


@pytest.mark.parametrize("made", [True, False])
def test_a_tokenizer_that_was_left_out_is_one_warning(tiny, made):
    manifest = tiny.manifest
    files = {name: record for name, record in manifest.files.items() if name != TOKENIZER}
    told = replace(manifest.source, warnings=(f"{UNREAD}it is damaged",))
    assert "warning: no tokenizer" in artifact_in_words(changed(tiny, files=files), made)
    said = artifact_in_words(changed(tiny, files=files, source=told), made)
    assert "without its tokenizer" in said
    assert "warning" not in said
