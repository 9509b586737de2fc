"""What quantization costs SmolLM2-135M-Instruct, on its own graphs in ONNX Runtime.

Two precisions as they come, three with a third of the calibration, which costs them little. Judged
on windows of the half of the text that nothing was calibrated on. The limits leave room for another
Python's documentation: figures of one machine are in reports/LOG.md.
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
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.request import ExportRequest
from llx.llama.presets import preset_of_size
from llx.precision import precision_named

ROUNDED = 0.005  # what `ort` may cost beside: weights alone in few bits multiply rounded inputs


def exported(folder, name, block=None, **asked) -> Artifact:
    preset = preset_of_size("135m")
    request = ExportRequest(
        weights=locate(None, preset),
        folder=folder / "artifact",
        precision=precision_named(name, block=block),
        context=512,
        preset=preset,
        quantization=QuantizationRequest(**asked),
    )
    return export(request)[0]


def fidelity_of(artifact, dialect):
    reference = read_reference(artifact)
    prefill = observe_prefill(
        partial(OrtSession, artifact, dialect=dialect),
        reference.scores.tokens,
        reference.scores.ids,
    )
    return verdict(reference, prefill, prefill).prefill


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a calibration alone takes minutes
@pytest.mark.parametrize(
    ("name", "block", "asked", "kld", "ratio", "share"),
    [
        ("int8", None, {}, 0.020, 1.03, 0.90),
        ("int8", None, {"windows": 16, "dense_share": 0.0}, 0.040, 1.05, 1.0),
        ("int8-wo", None, {"windows": 16}, 0.0035, 1.02, 1.0),
        ("fp8", None, {}, 0.030, 1.03, 1.0),
        ("int4", 128, {"windows": 16}, 0.21, 1.25, 1.0),
        ("int4", None, {}, 0.11, 1.10, 1.0),
    ],
    ids=["int8", "int8-every-layer", "int8-wo", "fp8", "int4-b128", "int4"],
)
def test_it_costs_no_more_than_it_is_said_to(tmp_path, name, block, asked, kld, ratio, share):
    artifact = exported(tmp_path, name, block, **asked)
    artifact = capture(artifact, open_reference).artifact
    record, found = artifact.manifest.quantization, fidelity_of(artifact, "standard")
    print(f"{name} {block or ''}: KLD {found.kld.mean:.4f}, PPL ratio {found.ppl_ratio.value:.4f}")
    assert record.share >= share
    assert 0 < found.kld.mean <= kld
    assert 0.9 < found.ppl_ratio.value <= ratio
    assert 0 < fidelity_of(artifact, "ort").kld.mean <= kld + ROUNDED
