"""Choosing weights in few bits: calibration, folds, rounding, what stays dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.exporter.quantization.budget import Budget as Budget
    from llx.exporter.quantization.budget import Distance as Distance
    from llx.exporter.quantization.budget import QuantizationRequest as QuantizationRequest
    from llx.exporter.quantization.fold import FoldedSource as FoldedSource
    from llx.exporter.quantization.fold import awq as awq
    from llx.exporter.quantization.fold import smoothquant as smoothquant
    from llx.exporter.quantization.run import Quantization as Quantization
    from llx.exporter.quantization.run import quantize as quantize
    from llx.exporter.quantization.store import CalibratedModule as CalibratedModule
    from llx.exporter.quantization.store import CalibrationStore as CalibrationStore

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "budget": "Budget Distance QuantizationRequest",
        "fold": "FoldedSource awq smoothquant",
        "run": "Quantization quantize",
        "store": "CalibratedModule CalibrationStore",
    },
)
