"""A pull request that makes a real model worse by a little, and one that does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import llx as door
from llx.api.reference import open_reference
from llx.bench.fidelity.judge import verdict
from llx.bench.fidelity.observed import observe_prefill
from llx.bench.fidelity.reference import capture, read_reference
from llx.bench.sessions.ort import OrtSession
from llx.corpus import Cut
from llx.exporter.locate import locate
from llx.exporter.sources import open_source
from llx.llama.presets import preset_of_size
from llx.reports.compare.pairs import compare_results
from llx.result import ArtifactRecord
from tests.checkpoints import config_of
from tests.reports.made import RESULT

WINDOW, WINDOWS = 256, 3


def saved_again(folder, noise):
    """SmolLM2-135M as a folder of safetensors, its layers' weights off by that many deviations."""
    preset = preset_of_size("135m")
    source = open_source(locate(None, preset), preset.spec, None, [])
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name in source.tensors:
        value = source.read(name).float()
        if value.ndim == 2 and ".layers." in name:
            value += noise * value.std() * torch.randn(value.shape, generator=generator)
        tensors[name] = value.contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(source.spec)))
    (folder / "tokenizer.json").write_bytes(source.text().tokenizer)
    return folder


def judged(artifact):
    """A result of it, judged by its own reference; what prefill gives stands for decode too."""
    artifact = capture(artifact, open_reference, Cut(window=WINDOW, windows=WINDOWS)).artifact
    reference = read_reference(artifact)
    scores = reference.scores
    found = observe_prefill(lambda rows: OrtSession(artifact, rows), scores.tokens, scores.ids)
    record = ArtifactRecord.of(artifact, "checkpoint")
    return replace(RESULT, fidelity=verdict(reference, found, found), artifact=record)


@pytest.mark.slow
def test_it_is_caught_by_default_and_an_equal_one_passes(tmp_path):
    found = {}
    for noise in (None, 0, 0.03):
        if noise is None:
            artifact = door.export(size="135m", context=512, output=tmp_path / "packaged")
        else:
            checkpoint = saved_again(tmp_path / f"checkpoint-{noise}", noise)
            artifact = door.export(weights=checkpoint, context=512, output=tmp_path / f"{noise}")
        found[noise] = judged(artifact)
    before = found[None]
    assert all(one.fidelity.kld.mean < 1e-8 for one in found.values())  # each export is perfect
    equal = compare_results([before], [found[0]])
    assert not equal.regressed
    assert equal.unjudged == []
    changes = compare_results([before], [found[0.03]]).regressed
    (change,) = [one for one in changes if one.metric == "PPL prefill"]
    assert 1 < change.ci95[0] < change.ratio < 1.1
