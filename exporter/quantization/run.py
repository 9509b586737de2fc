"""How a checkpoint's linear layers become what an artifact holds: calibrate, weigh up, choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llx.corpus import (
    WINDOW,
    Corpus,
    Cut,
    OwnText,
    corpus_to_calibrate_on,
    cut_windows,
    require_known,
)
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
from llx.exporter.quantization.written import written_windows
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
    """Windows to calibrate on and to weigh up by, [W, N] each, and where they are from."""

    calibration: NDArray[np.int64]
    judged: NDArray[np.int64]
    corpus: Corpus | None = None
    written: int = 0  # how many of the calibration's windows the model wrote


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
    length = min(window, source.spec.context)
    texts = (
        _random_tokens(source, windows, length)
        if isinstance(source, RandomSource)
        else _texts(source, windows, length, asked.text, store, progress)
    )
    calibrate(source, precision, texts.calibration, store, progress, plain=random)
    record = QuantizationRecord(
        scheme=scheme,
        method="plain" if random else METHODS[precision.linear],
        corpus="random tokens" if random else texts.corpus.name if texts.corpus else None,
        corpus_sha256=texts.corpus.sha256 if texts.corpus else None,
        windows=windows,
        written=texts.written,
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


def _random_tokens(source: RandomSource, windows: int, length: int) -> _Texts:
    """For random weights, which no text says anything to."""
    rng = np.random.default_rng(source.seed)
    shape = (windows + JUDGED_WINDOWS, length)
    tokens = rng.integers(0, source.spec.vocab, shape, dtype=np.int64)
    return _apart(tokens, JUDGED_WINDOWS)


def _texts(
    source: TensorSource,
    windows: int,
    length: int,
    asked: Path | OwnText | None,
    store: CalibrationStore,
    progress: Progress,
) -> _Texts:
    """Windows of what was asked for; by default half of a text's and half that the model writes.

    Raises `BadInput` where the checkpoint has no tokenizer, or the text is too short.
    """
    spec, vocabulary = source.spec, source.text()
    if vocabulary is None:
        why = [line.removeprefix(UNREAD) for line in source.warnings if line.startswith(UNREAD)]
        raise BadInput(
            f"{source.path} has no tokenizer that llx reads, and calibration is on text"
            + "".join(f" ({line})" for line in why),
            "put its tokenizer.json beside the weights, or export with --precision fp16",
        )
    tokenizer = parse_tokenizer(vocabulary.tokenizer, source.path)
    written = windows if asked == "self" else windows // 2 if asked is None else 0
    judged = JUDGED_WINDOWS * written // windows
    corpus, parts = corpus_to_calibrate_on(asked), []
    if corpus:
        count = windows - written + JUDGED_WINDOWS - judged
        tokens = cut_windows(tokenizer, corpus, Cut(window=length, windows=count)).tokens
        require_known(int(tokens.max()), spec.vocab)
        parts.append(_apart(tokens, JUDGED_WINDOWS - judged))
    if written:
        bos = tokenizer.token_to_id(vocabulary.record.bos_token)
        known = min(tokenizer.get_vocab_size(), spec.vocab)
        first = bos if bos is not None and bos < known else None
        count = written + judged
        tokens = written_windows(source, count, length, first, known, store, progress)
        parts.append(_apart(tokens, judged))
    return _Texts(
        np.concatenate([part.calibration for part in parts]),
        np.concatenate([part.judged for part in parts]),
        corpus,
        written,
    )


def _apart(tokens: NDArray[np.int64], judged: int) -> _Texts:
    """So many windows to weigh up by, evenly among those of the calibration."""
    places = np.linspace(0, len(tokens) - 1, judged + 2).round().astype(int)[1:-1]
    return _Texts(np.delete(tokens, places, 0), tokens[places])


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
