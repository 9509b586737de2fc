"""What is left dense: layers that cost the most for their work, as few as the budget needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llx.errors import BadInput, GateFailed
from llx.exporter.load import llama_from_source
from llx.exporter.quantization.budget import (
    Budget,
    Distance,
    QuantizationRequest,
    keep_share,
    keep_within,
    multiply_adds,
    quantized_share,
)
from llx.exporter.quantization.calibrate import calibrate
from llx.exporter.quantization.fold import FoldedSource
from llx.exporter.quantization.judge import Judge
from llx.exporter.quantization.sensitivity import sensitivities
from llx.exporter.quantization.store import CalibrationStore
from llx.llama.model import empty_cache
from llx.precision import PRECISIONS
from tests.checkpoints import SPECS, TINY, MemorySource, dice, random_tensors

INT8, FOUR = PRECISIONS["int8"], PRECISIONS["int4"]
MODULES = list(multiply_adds(TINY))


def tokens_of(spec, windows=4, length=40, seed=2):
    return dice(seed).integers(0, spec.vocab, (windows, length))


@pytest.fixture
def store(tmp_path):
    with CalibrationStore.opened(tmp_path / "store", "key") as opened:
        yield opened


def calibrated(spec, precision, store, tensors=None):
    source = MemorySource(spec, tensors)
    calibrate(source, precision, tokens_of(spec, seed=1), store)
    return source, FoldedSource(source, store.folds())


def logits(source, tokens):
    """Of the whole model, [W, N - 1, V]."""
    model = llama_from_source(source)
    count = tokens.shape[1] - 1
    positions = torch.arange(count)[None]
    with torch.inference_mode():
        return torch.cat(
            [
                model(
                    torch.from_numpy(row[None, :-1]),
                    positions,
                    positions,
                    empty_cache(source.spec, 1, count, torch.float32),
                )[0]
                for row in tokens
            ]
        )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_model_is_at_no_distance_from_itself_however_it_is_folded(store, spec):
    source, folded = calibrated(spec, INT8, store)
    judge = Judge(source, INT8, tokens_of(spec), store)
    found = judge.of(logits(folded, tokens_of(spec)))
    assert abs(found.kld) < 1e-6
    assert found.ppl_ratio == pytest.approx(1, abs=1e-4)


def test_the_distance_is_the_formula(store):
    source, _ = calibrated(TINY, INT8, store)
    tokens = tokens_of(TINY)
    p = torch.log_softmax(logits(source, tokens).double(), -1)
    other = logits(MemorySource(TINY, random_tensors(TINY, 5)), tokens)
    q = torch.log_softmax(other.double(), -1)
    true = torch.from_numpy(tokens[:, 1:, None])
    found = Judge(source, INT8, tokens, store).of(other)
    assert found.kld == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    ratio = float((p.gather(2, true) - q.gather(2, true)).mean().exp())
    assert found.ppl_ratio == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("precision", [INT8, FOUR], ids=["int8", "int4"])
def test_a_mixture_is_nearer_than_the_whole_and_all_dense_is_no_way_off(store, precision):
    source, _ = calibrated(TINY, precision, store)
    judge = Judge(source, precision, tokens_of(TINY), store)
    whole = judge.distance(frozenset())
    half = judge.distance(frozenset(MODULES[:4]))
    none = judge.distance(frozenset(MODULES))
    assert whole.kld > half.kld > none.kld
    assert abs(none.kld) < 1e-6


@pytest.mark.parametrize("precision", [INT8, FOUR], ids=["int8", "int4"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_sensitivities_are_what_each_layer_costs_by_itself(store, spec, precision):
    """Of second order and from one draw a token: right to a factor, and in their order.

    Of 8 windows the draws alone moved a layer by a factor of 4.
    """
    source, folded = calibrated(spec, precision, store)
    tokens = tokens_of(spec, 24)
    found = sensitivities(folded, precision, tokens, store)
    judge = Judge(source, precision, tokens, store)
    every = frozenset(found)
    alone = {module: judge.distance(every - {module}).kld for module in found}
    assert found.keys() == alone.keys() == multiply_adds(spec).keys()
    ratios = [found[module] / alone[module] for module in found]
    assert all(0.25 < ratio < 4 for ratio in ratios)
    order = np.corrcoef(np.log(list(found.values())), np.log(list(alone.values())))[0, 1]
    assert order > 0.7
    assert sum(found.values()) == pytest.approx(judge.distance(frozenset()).kld, rel=0.5)


def test_a_layer_that_was_rounded_badly_stands_out(store):
    _, folded = calibrated(TINY, INT8, store)
    bad = store.read("layers.1.o")
    bad.quantized.values.div_(2, rounding_mode="trunc")
    store.write("layers.1.o", bad)
    found = sensitivities(folded, INT8, tokens_of(TINY), store)
    assert max(found, key=lambda module: found[module]) == "layers.1.o"


COSTS = {module: (i + 1.0) * multiply_adds(TINY)[module] for i, module in enumerate(MODULES)}


def test_the_share_that_may_stay_dense_goes_to_the_costliest_for_their_work():
    dense = keep_share(TINY, COSTS, 0.5)
    assert quantized_share(TINY, dense) >= 0.5
    left = [module for module in MODULES if module not in dense]
    assert MODULES[-1] in dense
    smallest = min(left, key=lambda module: multiply_adds(TINY)[module])
    assert quantized_share(TINY, dense | {smallest}) < 0.5
    assert keep_share(TINY, COSTS, 0.0) == frozenset()


def distance_of(dense):
    """Of a model whose layers cost as many thousandths as their place."""
    return Distance(sum(i + 1 for i, m in enumerate(MODULES) if m not in dense) / 1000, 1.0)


def test_within_a_budget_as_few_are_left_as_it_needs():
    loose, tight = (
        keep_within(TINY, COSTS, distance_of, Budget(max_kld=most)) for most in (0.036, 0.03)
    )
    assert loose == (frozenset(), Distance(0.036, 1.0))
    dense, distance = tight
    assert dense == frozenset(MODULES[-1:])
    assert distance.kld == pytest.approx(0.028)


def test_a_budget_that_cannot_be_met_gives_the_nearest_with_half_the_work_quantized():
    dense, distance = keep_within(TINY, COSTS, distance_of, Budget(max_kld=1e-6))
    assert quantized_share(TINY, dense) >= 0.5
    with pytest.raises(GateFailed, match=r"a KLD of 1e-06 is not met: the best .* KLD of 0\.0"):
        Budget(max_kld=1e-6).require(distance, 0.5)


def test_a_budget_of_both_is_kept_in_both():
    budget = Budget(max_kld=0.02, max_ppl_ratio=1.01)
    assert budget.holds(Distance(0.02, 1.01))
    assert not budget.holds(Distance(0.021, 1.0))
    assert not budget.holds(Distance(0.0, 1.011))
    assert not budget.holds(Distance(0.019, 1.0), margin=0.9)
    assert not Budget()
    assert budget
    assert "KLD of 0.02" in str(budget)


@pytest.mark.parametrize(
    ("precision", "asked", "words"),
    [
        ("fp16", QuantizationRequest(windows=3), "quantizes nothing"),
        ("fp32", QuantizationRequest(budget=Budget(max_kld=0.1)), "quantizes nothing"),
        ("int8", QuantizationRequest(windows=0), "int8 needs a calibration"),
        ("int4", QuantizationRequest(windows=0, dense_share=0.1), "need a calibration"),
        ("int8", QuantizationRequest(budget=Budget(max_kld=0.0)), "is not above 0"),
        ("int8", QuantizationRequest(budget=Budget(max_ppl_ratio=1.0)), "is not above 1"),
        ("int8", QuantizationRequest(dense_share=1.0), "is no share"),
        ("int8", QuantizationRequest(windows=-1), "-1 windows are outside"),
        ("int8", QuantizationRequest(dense_share=0.1, budget=Budget(max_kld=1)), "budget decides"),
    ],
)
def test_what_means_nothing_is_refused(precision, asked, words):
    with pytest.raises(BadInput, match=words):
        asked.require_for(PRECISIONS[precision])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_budget_that_limits_nothing_is_none(value):
    with pytest.raises(BadInput, match=r"--max-kld .* limits nothing"):
        Budget(max_kld=value)
    with pytest.raises(BadInput, match=r"--max-ppl-ratio .* limits nothing"):
        Budget(max_ppl_ratio=value)
