"""How a checkpoint's linear layers become what an artifact holds: calibrate, weigh up, choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llx.corpus import WINDOW, Corpus, Cut, calibration_text, corpus_of, cut_windows, require_known
from llx.errors import BadInput
from llx.exporter.quantization.budget import (
    Budget,
    Distance,
    QuantizationRequest,
    keep_share,
    keep_within,
    quantized_share,
)
from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.fold import FoldedSource
from llx.exporter.quantization.judge import Judge
from llx.exporter.quantization.sensitivity import sensitivities
from llx.exporter.quantization.store import CalibrationStore
from llx.exporter.quantize import Ready
from llx.exporter.sources import TensorSource
from llx.exporter.sources.generated import RandomSource
from llx.manifest import UNREAD, BudgetRecord, QuantizationRecord
from llx.precision import Precision
from llx.progress import Progress, silent
from llx.tokenizer import parse_tokenizer

WINDOWS = 48  # of calibration; 16 cost SmolLM2's int8 a quarter more KLD (reports/LOG.md)
JUDGED_WINDOWS = 4  # beside them, for weighing up: never calibrated on
DENSE_SHARE = 0.1  # of int8's multiply-adds, where nothing else was asked for
SCHEMES: dict[str, Literal["w8a8", "w8", "w4", "fp8"]] = {
    "int8": "w8a8",
    "int8-wo": "w8",
    "int4": "w4",
    "fp8": "fp8",
}
METHODS: dict[str, Literal["smoothquant", "gptq", "awq", "levelled"]] = {
    "int8": "smoothquant",
    "int8-wo": "gptq",
    "int4": "awq",
    "fp8": "levelled",
}


@dataclass(frozen=True)
class Quantization:
    """What an artifact's weights are written from; `judge` where there is a budget to keep to."""

    source: TensorSource
    record: QuantizationRecord
    input_maxima: dict[str, float]
    ready: Ready
    judge: Judge | None = None

    def within(self, budget: Budget, margin: float) -> Quantization:
        """With as many layers dense as a share `margin` of the budget needs.

        Raises `GateFailed` where the budget cannot be kept to.
        """
        assert self.judge is not None
        spec, costs = self.source.spec, self.record.sensitivities
        dense, distance = keep_within(spec, costs, self.judge.distance, budget, margin)
        share = quantized_share(spec, dense)
        budget.require(distance, share)
        record = replace(
            self.record,
            dense=tuple(sorted(dense)),
            share=share,
            budget=budget_record(budget, distance, "pytorch"),
        )
        return replace(self, record=record)


@dataclass(frozen=True)
class _Texts:
    """Windows to calibrate on and to weigh up by, [W, N] each, and what they were cut from."""

    calibration: NDArray[np.int64]
    judged: NDArray[np.int64]
    corpus: Corpus | None


def quantize(
    source: TensorSource,
    precision: Precision,
    asked: QuantizationRequest,
    store: CalibrationStore,
    window: int = WINDOW,
    progress: Progress = silent,
) -> Quantization:
    """Calibrate, unless the store holds it already, and choose what is left dense.

    Raises `BadInput` as `calibrate` does, and where there is nothing to calibrate on; `GateFailed`
    where the budget cannot be kept to.
    """
    random = isinstance(source, RandomSource)
    windows = windows_of(precision, asked, random)
    scheme = SCHEMES[precision.linear]
    if windows == 0:
        record = QuantizationRecord(scheme=scheme, method="nearest")
        return Quantization(source, record, {}, lambda _: None)
    texts = _texts(source, windows, min(window, source.spec.context), asked.text)
    calibrate(source, precision, texts.calibration, store, progress, plain=random)
    record = QuantizationRecord(
        scheme=scheme,
        method="plain" if random else METHODS[precision.linear],
        corpus=texts.corpus.name if texts.corpus else "random tokens",
        corpus_sha256=texts.corpus.sha256 if texts.corpus else None,
        windows=windows,
        window=texts.calibration.shape[1],
    )
    folded = FoldedSource(source, store.folds())
    chosen = Quantization(folded, record, store.input_maxima(), store.quantized)
    share = asked.dense_share
    if share is None:
        share = DENSE_SHARE if precision.linear == "int8" and not random else 0.0
    if not share and not asked.budget:
        return chosen
    costs = sensitivities(folded, precision, texts.judged, store, progress)
    record = replace(record, sensitivities=costs)
    if asked.budget:
        judge = Judge(source, precision, texts.judged, store, progress)
        return replace(chosen, record=record, judge=judge).within(asked.budget, 1.0)
    dense = keep_share(source.spec, costs, share)
    share = quantized_share(source.spec, dense)
    return replace(chosen, record=replace(record, dense=tuple(sorted(dense)), share=share))


def windows_of(precision: Precision, asked: QuantizationRequest, random: bool) -> int:
    """How many windows are calibrated on. Random weights have no accuracy to keep."""
    if asked.windows is not None:
        return asked.windows
    if random:
        return 1 if precision.rounds_inputs else 0
    return WINDOWS


def _texts(source: TensorSource, windows: int, length: int, text: Path | None) -> _Texts:
    """Windows of the text, and every so often one to weigh up by; random tokens for random weights.

    Raises `BadInput` where the checkpoint has no tokenizer, or the text is too short.
    """
    spec = source.spec
    count = windows + JUDGED_WINDOWS
    # Spread evenly among those of the calibration.
    judged = np.linspace(0, count - 1, JUDGED_WINDOWS + 2).round().astype(int)[1:-1]
    if isinstance(source, RandomSource):
        rng = np.random.default_rng(source.seed)
        tokens, corpus = rng.integers(0, spec.vocab, (count, length), dtype=np.int64), None
    else:
        vocabulary = source.text()
        if vocabulary is None:
            why = [line.removeprefix(UNREAD) for line in source.warnings if line.startswith(UNREAD)]
            raise BadInput(
                f"{source.path} has no tokenizer that llx reads, and calibration is on text"
                + "".join(f" ({line})" for line in why),
                "put its tokenizer.json beside the weights, or export with --precision fp16",
            )
        corpus = corpus_of(text) if text else calibration_text()
        tokenizer = parse_tokenizer(vocabulary.tokenizer, source.path)
        tokens = cut_windows(tokenizer, corpus, Cut(window=length, windows=count)).tokens
        require_known(int(tokens.max()), spec.vocab)
    return _Texts(np.delete(tokens, judged, 0), tokens[judged], corpus)


def budget_record(budget: Budget, distance: Distance, judged_by: str) -> BudgetRecord:
    """What was allowed and what was found, by which engine."""
    return BudgetRecord(
        max_kld=budget.max_kld,
        max_ppl_ratio=budget.max_ppl_ratio,
        kld=distance.kld,
        ppl_ratio=distance.ppl_ratio,
        windows=JUDGED_WINDOWS,
        judged_by=judged_by,
    )
