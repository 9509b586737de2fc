"""A calibration's memory: that of one layer, however many there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.sources.generated import RandomSource
from llx.llama.spec import LlamaSpec
from llx.precision import PRECISIONS
from llx.processes import in_own_process, peak_host_bytes
from llx.progress import Progress
from tests.checkpoints import TINY

WIDE = replace(TINY, dim=768, heads=12, kv_heads=4, head_dim=64, ffn_dim=2048)
LAYER_BYTES = 4 * 768 * (768 + 2 * 256 + 768 + 3 * 2048)  # in fp32
FEW, MANY = 6, 24


def calibrated(asked: tuple[LlamaSpec, str, Path], progress: Progress) -> int:
    """Peak memory of a process that calibrates a random model, Gram matrices and all."""
    spec, precision, folder = asked
    tokens = np.random.default_rng(0).integers(0, spec.vocab, (1, 64))
    with CalibrationStore.opened(folder, "key") as store:
        calibrate(RandomSource(spec, 0), PRECISIONS[precision], tokens, store, progress)
    return peak_host_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8"])
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path, precision):
    few, many = (
        in_own_process(
            calibrated,
            (replace(WIDE, layers=layers), precision, tmp_path / str(layers)),
            lambda *_: None,
            "calibration",
            "",
        )
        for layers in (FEW, MANY)
    )
    # The same run twice differs by a layer or so: what the allocator keeps.
    assert many < few + (MANY - FEW) * LAYER_BYTES / 4
