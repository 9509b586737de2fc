"""Calibration: every linear layer's fold, scales and values, from a text and one block at a time.

Hidden states of all windows stay, weights pass: memory does not grow with the number of layers.
Which folds and which rounding each precision takes:

int8     SmoothQuant's fold, GPTQ per output channel, the input's scale from its largest magnitude
int8-wo  GPTQ per output channel
int4     AWQ's fold, GPTQ in blocks
fp8      one factor for all channels, GPTQ per output channel, the input's scale from its largest
         magnitude

Random weights have no accuracy to keep: theirs are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from llx.errors import BadInput
from llx.exporter.graph.trace import TORCH_DTYPES
from llx.exporter.load import embedded, projection
from llx.exporter.quantization.fold import FoldedSource, awq, levelled, smoothquant
from llx.exporter.quantization.observe import InputStatistics, observe
from llx.exporter.quantization.rounding import fp8_rounded, int4_rounded, int8_rounded
from llx.exporter.quantization.store import CalibratedModule, CalibrationStore
from llx.exporter.quantize import Quantized, fp8_nearest, int4_nearest, int8_nearest
from llx.exporter.sources import TensorSource
from llx.precision import Precision
from llx.progress import Progress, silent

FP16_MOST = float(torch.finfo(torch.float16).max)


def calibrate(
    source: TensorSource,
    precision: Precision,
    tokens: NDArray[np.int64],
    store: CalibrationStore,
    progress: Progress = silent,
    plain: bool = False,
) -> None:
    """Put every quantized module of a checkpoint into the store, from windows of tokens [W, N].

    Goes on after the last layer that the store holds. `plain`: weights are rounded to nearest.
    Raises `BadInput` where an input is not finite or beyond what the graph computes in, naming its
    layer.
    """
    first, hidden = store.resume()
    if hidden is None:
        hidden = embedded(source, torch.from_numpy(tokens))

    def seen(layer: int, statistics: dict[str, InputStatistics]) -> None:
        _calibrate_layer(source, precision, statistics, store, plain)
        store.layer_done(layer, hidden)

    observe(source, hidden, seen, first, progress, grams=not plain)


def _calibrate_layer(
    source: TensorSource,
    precision: Precision,
    statistics: dict[str, InputStatistics],
    store: CalibrationStore,
    plain: bool,
) -> None:
    """Fold, round and store the linear layers of one block; their statistics are used up."""
    fold_of = _fold_of(source, precision, plain)
    folds = (
        {module: fold_of(module, seen) for module, seen in statistics.items()} if fold_of else {}
    )
    folded = FoldedSource(source, folds)
    for module in list(statistics):
        seen, fold = statistics.pop(module), folds.get(module)
        if fold is not None:
            seen.maxima.div_(fold)
            if seen.gram is not None:
                seen.gram.div_(fold).div_(fold[:, None])
        most = float(seen.maxima.max())
        if precision.compute == "fp16" and most > FP16_MOST:
            raise BadInput(
                f"the input of {module} reaches {most:.1e}, and fp16, which the graph computes in, "
                f"ends at {FP16_MOST:.0f}",
                "export with --compute bf16 or fp32",
            )
        rounded = _rounded(projection(folded, module), seen.gram, precision, module)
        store.write(module, CalibratedModule(rounded, most, fold))


def _fold_of(
    source: TensorSource, precision: Precision, plain: bool
) -> Callable[[str, InputStatistics], torch.Tensor] | None:
    """What gives a module's fold, where the precision has any use for one."""
    spec = source.spec
    if precision.linear == "int8":
        return lambda module, seen: smoothquant(spec, module, projection(source, module), seen)
    if precision.linear == "fp8":
        return lambda module, seen: levelled(projection(source, module), seen)
    if precision.linear == "int4" and not plain:
        return lambda module, seen: awq(
            spec,
            module,
            projection(source, module),
            seen,
            precision.block_of(len(seen.maxima)),
        )
    return None


def _rounded(
    weight: torch.Tensor, gram: torch.Tensor | None, precision: Precision, module: str
) -> Quantized:
    dtype = TORCH_DTYPES[precision.compute]
    if precision.linear == "int4":
        block = precision.block_of(len(weight))
        if gram is None:
            return int4_nearest(weight, block, dtype, module)
        return int4_rounded(weight, gram, block, dtype, module)
    fp8 = precision.linear == "fp8"
    if gram is None:
        return (fp8_nearest if fp8 else int8_nearest)(weight, dtype, module)
    return (fp8_rounded if fp8 else int8_rounded)(weight, gram, dtype, module)
