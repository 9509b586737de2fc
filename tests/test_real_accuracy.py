"""What quantization costs SmolLM2-135M-Instruct, on its own graphs in ONNX Runtime.

With a third of the calibration that they come with, which costs them little. Judged on windows of
the half of the text that nothing was calibrated on, and on code. The limits leave room for another
Python's texts: figures of one machine are in reports/LOG.md.
"""

from __future__ import annotations

from functools import partial

import pytest

from llx.api.reference import open_reference
from llx.artifact import Artifact
from llx.bench.fidelity.judge import verdict
from llx.bench.fidelity.observed import observe_prefill
from llx.bench.fidelity.reference import capture, read_reference
from llx.bench.sessions.ort import OrtSession
from llx.corpus import evaluation_code
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.request import ExportRequest
from llx.llama.presets import preset_of_size
from llx.precision import precision_named

ROUNDED = 0.005  # what `ort` may cost beside: weights alone in few bits multiply rounded inputs


def exported(folder, name, **asked) -> Artifact:
    preset = preset_of_size("135m")
    request = ExportRequest(
        weights=locate(None, preset),
        folder=folder / "artifact",
        precision=precision_named(name),
        context=512,
        preset=preset,
        quantization=QuantizationRequest(**asked),
    )
    return export(request)[0]


def fidelity_of(artifact, dialect, name=None):
    reference = read_reference(artifact, *([name] if name else []))
    prefill = observe_prefill(
        partial(OrtSession, artifact, dialect=dialect),
        reference.scores.tokens,
        reference.scores.ids,
    )
    return verdict(reference, prefill, prefill).prefill


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a calibration alone takes minutes
@pytest.mark.parametrize(
    ("name", "asked", "kld", "ratio", "on_code", "share"),
    [
        ("int8", {}, 0.018, 1.03, 0.025, 0.90),
        ("int8-wo", {"text": "self"}, 0.0035, 1.02, 0.0035, 1.0),
        ("int4", {}, 0.11, 1.10, 0.13, 1.0),
        ("fp8", {"text": "docs"}, 0.030, 1.03, 0.030, 1.0),
    ],
    ids=["int8", "int8-wo-self", "int4", "fp8-docs"],
)
def test_it_costs_no_more_than_it_is_said_to(tmp_path, name, asked, kld, ratio, on_code, share):
    artifact = exported(tmp_path, name, windows=16, **asked)
    artifact = capture(artifact, open_reference).artifact
    code = capture(artifact, open_reference, corpus=evaluation_code())
    record, found = artifact.manifest.quantization, fidelity_of(artifact, "standard")
    unlike = fidelity_of(code.artifact, "standard", code.name)
    print(f"{name}: KLD {found.kld.mean:.4f}, PPL ratio {found.ppl_ratio.value:.4f}")
    print(f"on code: KLD {unlike.kld.mean:.4f}")
    assert record.share >= share
    assert 0 < found.kld.mean <= kld
    assert 0 < unlike.kld.mean <= on_code
    assert 0.9 < found.ppl_ratio.value <= ratio
    assert 0 < fidelity_of(artifact, "ort").kld.mean <= kld + ROUNDED
