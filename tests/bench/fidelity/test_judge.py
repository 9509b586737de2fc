"""Fidelity: its estimators against exact values, its bookkeeping on predictable engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from llx.artifact import open_artifact
from llx.bench.fidelity import reference as referencing
from llx.bench.fidelity.judge import SPANS, by_position, divergence, judge_session, least_divergence
from llx.bench.fidelity.observed import log_sum_exp
from llx.bench.fidelity.reference import PARTIAL, capture, read_reference, score_window
from llx.bench.sessions.fake import FakeSession
from llx.bench.sessions.torch import TorchSession
from llx.corpus import Corpus, Cut
from llx.errors import BadInput, NotExported
from llx.files import cache_folder
from llx.graphs.contract import Limits
from llx.manifest import REFERENCE, WEIGHTS
from tests.checkpoints import dice
from tests.conftest import export_tiny

V = 400


def logits_pair(noise, rows=300):
    rng = dice(0)
    p = 3 * rng.standard_normal((rows, V)).astype(np.float32)
    return p, (p + noise * rng.standard_normal((rows, V))).astype(np.float32)


@pytest.mark.parametrize("noise", [1e-4, 0.05, 0.5, 2.0])
def test_divergence_from_a_sampled_tail_is_the_exact_one_without_bias(noise):
    p_logits, q_logits = logits_pair(noise)
    rng = dice(1)
    p, q = (log_softmax(x.astype(np.float64), -1) for x in (p_logits, q_logits))
    exact = (np.exp(p) * (p - q)).sum(-1)
    top = np.argsort(-p_logits, -1)[:, :16]
    tail = referencing._draw_tail(p_logits, top, 64, rng)
    ids = np.concatenate([top, tail], -1)
    found = divergence(np.take_along_axis(p, ids, -1), np.take_along_axis(q, ids, -1), 16)
    assert (found >= 0).all()
    error = (found - exact).mean()
    assert abs(error) < 4 * (found - exact).std() / np.sqrt(len(exact))
    assert abs(error) < 0.05 * exact.mean()


def test_divergence_of_equals_is_nothing():
    p = log_softmax(logits_pair(0)[0].astype(np.float64), -1)
    np.testing.assert_array_equal(divergence(p, p, 16), np.zeros(300))


@pytest.mark.parametrize("noise", [1e-4, 0.05, 0.5, 2.0])
def test_the_bound_of_the_divergence_is_below_the_exact_one_of_every_token_and_near_it(noise):
    p, q = (log_softmax(x.astype(np.float64), -1) for x in logits_pair(noise))
    exact = (np.exp(p) * (p - q)).sum(-1)
    top = np.argsort(-p, -1)
    least = []
    for k in (16, 64, V):
        ids = top[:, :k]
        least.append(
            least_divergence(np.take_along_axis(p, ids, -1), np.take_along_axis(q, ids, -1))
        )
    rounding = 1e-14
    assert (least[0] <= least[1] + rounding).all()
    assert (least[1] <= exact + rounding).all()
    assert least[0].mean() < 0.999 * exact.mean()
    assert 0.5 * exact.mean() < least[1].mean()
    np.testing.assert_allclose(least[2], exact, rtol=1e-4, atol=1e-11)


def test_the_bound_is_finite_where_nothing_is_left_of_either():
    p, q = np.log([[0.75, 0.25]]), np.log([[1.0, 1e-300]])
    (least,) = least_divergence(p, q)
    assert least == pytest.approx(0.75 * np.log(0.75) + 0.25 * np.log(0.25 / 1e-300))


def test_divergence_over_positions_shows_where_it_grows_and_adds_up_to_the_whole():
    kld = dice(0).gamma(1, 1e-4, (5, 511))
    kld[:, 300:] *= 50  # as a cache that is wrong from there on
    spans = by_position(kld)
    assert len(spans) == SPANS
    assert [span.first for span in spans] == [0, *(span.last + 1 for span in spans[:-1])]
    assert spans[-1].last == 510
    whole = sum(span.mean * (span.last - span.first + 1) for span in spans) / 511
    assert whole == pytest.approx(kld.mean())
    assert all((span.mean > 1e-3) == (span.first >= 300) for span in spans if span.first != 288)
    some = kld[:, spans[3].first : spans[3].last + 1]
    assert spans[3].se == pytest.approx(some.std(ddof=1) / np.sqrt(some.size))
    assert [(span.first, span.last) for span in by_position(kld[:, :3])] == [(0, 0), (1, 1), (2, 2)]


def test_tail_samples_lie_outside_the_top_and_follow_the_probabilities():
    rows = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32))
    drawn = referencing._draw_tail(rows, np.array([[0, 1]]), 20000, dice(0))
    assert set(drawn.ravel().tolist()) == {2, 3}
    assert (drawn == 2).mean() == pytest.approx(0.75, abs=0.02)


def test_log_sum_exp_does_not_overflow():
    rows = np.array([[1000.0, 1000.0], [-1000.0, -1000.0]], dtype=np.float32)
    np.testing.assert_allclose(log_sum_exp(rows), [1000 + np.log(2), -1000 + np.log(2)])


@pytest.fixture
def artifact(tmp_path):
    return export_tiny(tmp_path)


def torch_of(artifact):
    return TorchSession.open(artifact)


def captured(artifact, **options):
    return capture(artifact, torch_of, Cut(window=32, windows=3), **options)


def test_an_engine_judged_against_itself_is_perfect(artifact):
    artifact = captured(artifact).artifact
    found = judge_session(lambda rows: TorchSession.open(artifact, rows), read_reference(artifact))
    assert found.tokens == 3 * 31
    assert found.ppl == pytest.approx(found.ppl_reference)
    for phase in (found.prefill, found.decode):
        assert phase.tokens == 3 * 31
        assert phase.kld.max < 1e-9
        assert 0 <= phase.kld_bound < 1e-9
        assert phase.same_top1.value == 1
        assert phase.max_abs_logit_error < 1e-5
        assert phase.ppl_ratio.value == pytest.approx(1)


def test_the_numbers_are_those_of_their_formulas(artifact):
    artifact = captured(artifact).artifact
    limits = artifact.manifest.contract.limits
    found = judge_session(lambda rows: FakeSession(limits, rows), read_reference(artifact))
    scores = read_reference(artifact).scores
    # The double gives token t + 1 a logit of 4 and every other 0.
    total = np.log(limits.vocab - 1 + np.exp(4.0))
    nll = total - 4.0 * (scores.tokens[:, 1:] == (scores.tokens[:, :-1] + 1) % limits.vocab)
    delta = nll + scores.true_logprob
    n = nll.size
    assert found.ppl == pytest.approx(np.exp(nll.mean()))
    assert found.ppl_se == pytest.approx(found.ppl * nll.std(ddof=1) / np.sqrt(n))
    assert found.ppl_ratio.value == pytest.approx(np.exp(delta.mean()))
    assert found.ppl_ratio.se == pytest.approx(
        found.ppl_ratio.value * delta.std(ddof=1) / np.sqrt(n)
    )
    dp = np.exp(-nll) - np.exp(scores.true_logprob)
    assert found.rms_dp.value == pytest.approx(np.sqrt((dp**2).mean()))
    guess = (scores.tokens[:, :-1] + 1) % limits.vocab
    same = (guess == scores.ids[..., 0]).mean()
    assert found.same_top1.value == pytest.approx(same)
    assert found.same_top1.se == pytest.approx(np.sqrt(same * (1 - same) / (n - 1)))
    assert found.kld.mean > 0.01
    # The largest logits are most of a small vocabulary, so the bound is close.
    assert 0.8 * found.kld.mean < found.prefill.kld_bound < found.kld.mean + 4 * found.kld.se
    assert found.decode.ppl == pytest.approx(found.prefill.ppl)


def test_a_reference_is_captured_once(artifact):
    artifact, made, _ = captured(artifact)
    before = (artifact.folder / REFERENCE).stat().st_mtime_ns
    again, made_again, _ = captured(artifact)
    assert (made, made_again) == (True, False)
    assert (artifact.folder / REFERENCE).stat().st_mtime_ns == before
    assert again.has(REFERENCE)
    assert open_artifact(artifact.folder).damaged() == []


def test_the_reference_does_not_change_what_the_artifact_is(artifact):
    before = artifact.sha256
    assert captured(artifact)[0].sha256 == before


def test_an_interrupted_capture_goes_on_where_it_stopped(artifact, monkeypatch):
    calls = []

    def score(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score_window(*arguments)

    monkeypatch.setattr(referencing, "score_window", score)
    with pytest.raises(KeyboardInterrupt):
        captured(artifact)
    assert not (artifact.folder / REFERENCE).exists()
    artifact = captured(artifact).artifact
    assert len(calls) == 4  # two done, one interrupted, and that one again
    assert not (artifact.folder / PARTIAL).exists()
    whole = read_reference(artifact).scores
    alone = score_window(torch_of(artifact), whole.tokens[1], whole.ids.shape[-1] - 64, 64)
    np.testing.assert_array_equal(whole.logits[1], alone.logits)


def text_of(name, words):
    text = " ".join(words * 200)
    return Corpus(name=name, text=text, sha256=name, own=False)


def unopened(artifact):
    raise AssertionError("PyTorch was opened")


def test_another_cut_and_another_text_are_kept_beside(artifact):
    first = captured(artifact)
    found = [first]
    for cut, corpus in (
        (Cut(window=24, windows=3), None),
        (Cut(window=32, windows=3), text_of("novel.txt", ["one", "fine", "day"])),
        (Cut(window=32, windows=3, bos="none"), text_of("code.txt", ["def", "f():", "pass"])),
    ):
        found.append(capture(found[-1].artifact, torch_of, cut, corpus))
    artifact = open_artifact(artifact.folder)
    assert all(one.made for one in found)
    assert {one.name for one in found} == set(artifact.manifest.references)
    assert artifact.manifest.references[0] == REFERENCE
    assert artifact.damaged() == []
    references = [read_reference(artifact, one.name) for one in found]
    assert [one.protocol.text for one in references] == [None, None, "novel.txt", "code.txt"]
    assert [one.scores.tokens.shape[1] for one in references] == [32, 24, 32, 32]
    again = capture(artifact, unopened, Cut(window=32, windows=3))
    assert (again.made, again.name) == (False, REFERENCE)


def test_where_windows_overlap_what_is_scored_is_what_a_whole_window_scores(artifact):
    text = text_of("novel.txt", ["It", "was", "a", "bright", "cold", "day"])
    cut = Cut(window=32, windows=4, stride=8)
    artifact = capture(artifact, torch_of, cut, text).artifact
    reference = read_reference(artifact)
    scores, top_k = reference.scores, reference.protocol.top_k
    assert reference.protocol.scored == 8
    assert scores.true_logprob.shape == (4, 8)
    for w, tokens in enumerate(scores.tokens):
        whole = score_window(torch_of(artifact), tokens, top_k, 64)
        np.testing.assert_allclose(whole.true_logprob[-8:], scores.true_logprob[w], atol=1e-5)
        np.testing.assert_allclose(whole.log_sum_exp[-8:], scores.log_sum_exp[w], atol=1e-5)
    found = judge_session(lambda rows: TorchSession.open(artifact, rows), reference)
    for phase in (found.prefill, found.decode):
        assert phase.tokens == 32
        assert (phase.kld_by_position[0].first, phase.kld_by_position[-1].last) == (23, 30)
        assert phase.kld.max < 1e-9
        assert phase.max_abs_logit_error < 1e-5


def test_an_artifact_takes_what_was_captured_for_another_of_its_checkpoint(artifact, tmp_path):
    other = export_tiny(tmp_path / "other", "fp16")
    mine = captured(artifact, checkpoint="c").artifact
    theirs = capture(other, unopened, Cut(window=32, windows=3), checkpoint="c").artifact
    text = text_of("novel.txt", ["one", "day"])
    capture(mine, torch_of, Cut(window=32, windows=3), text, checkpoint="c")
    renamed = capture(
        theirs, unopened, Cut(window=32, windows=3), replace(text, name="other.txt"), "c"
    )
    assert read_reference(renamed.artifact, renamed.name).protocol.text == "other.txt"
    one, two = read_reference(mine), read_reference(theirs)
    np.testing.assert_array_equal(one.scores.logits, two.scores.logits)
    assert two.protocol == replace(one.protocol, spec=theirs.manifest.files[WEIGHTS].sha256)
    with pytest.raises(AssertionError, match="opened"):
        capture(other, unopened, Cut(window=24, windows=3), checkpoint="c")
    with pytest.raises(AssertionError, match="opened"):
        capture(export_tiny(tmp_path / "third"), unopened, Cut(window=32, windows=3))


def test_a_damaged_capture_of_another_artifact_is_not_taken(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    captured(artifact, checkpoint="d")
    (kept,) = (cache_folder() / "references").glob("*")
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="opened"):
        capture(
            export_tiny(tmp_path / "o", "fp16"),
            unopened,
            Cut(window=32, windows=3),
            checkpoint="d",
        )


def test_windows_that_do_not_fit_are_refused(artifact):
    with pytest.raises(BadInput, match="do not fit the artifact's cache of 96"):
        capture(artifact, torch_of, Cut(window=128, windows=2))


def test_without_a_reference_fidelity_says_what_to_run(artifact):
    with pytest.raises(NotExported, match="llx reference"):
        read_reference(artifact)


def test_a_damaged_reference_is_refused_and_captured_again(artifact):
    artifact = captured(artifact).artifact
    file = artifact.folder / REFERENCE
    file.write_bytes(file.read_bytes()[:100])
    artifact = replace(artifact)
    with pytest.raises(BadInput, match="run `llx reference`"):
        read_reference(artifact)
    assert captured(artifact)[1]


def test_decode_goes_in_groups_of_as_many_rows_as_the_engine_takes(artifact):
    artifact = captured(artifact).artifact
    limits: Limits = replace(artifact.manifest.contract.limits, max_rows=2)
    opened = []

    def open_rows(rows):
        opened.append(FakeSession(limits, rows))
        return opened[-1]

    judge_session(open_rows, read_reference(artifact))
    assert [len(session.steps) for session in opened[1:] if session.steps] == [31, 31]
    assert all(session.closed for session in opened)
