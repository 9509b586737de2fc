"""What a reader must know of a row of speed beside its number, in few words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llx.reports.plain import visible
from llx.reports.units import plus_minus, significant
from llx.result import Ceiling, Result, SpeedRow, Times
from llx.scores import Scores

OWN_TEXT = "Python's docs"  # what llx's own text is called beside a user's


def row_notes(row: SpeedRow) -> list[str]:
    """A doubtful path, drift, outliers, an interval wider than asked, lengths too short."""
    return list(_notes(row))


def speed_words(row: SpeedRow) -> str:
    """A speed as its interval is about it: the median, or the mean with its deviation."""
    if row.of_median:
        return f"{significant(row.speed)} median"
    return significant(row.mean) if len(row.samples) == 1 else plus_minus(row.mean, row.sd)


def speed_cell(row: SpeedRow) -> str:
    """The same in a table, with a flag where it does not count."""
    return speed_words(row) if row.valid else f"{speed_words(row)} INVALID"


def shown_test(test: str, batch: int) -> str:
    """A test's name for people, with the batch where it is more than one: tg128 × 8."""
    return f"{test} × {batch}" if batch > 1 else test


def arithmetic_words(result: Result) -> str | None:
    """What an engine multiplied; None where it is what the precision says, or is not told."""
    said = result.details.get("arithmetic")
    return str(said) if said and said != result.precision else None


def row_times(row: SpeedRow) -> list[tuple[str, Times]]:
    """The times of a row by the field's names, those that it has."""
    named = (("TTFT", row.ttft_ms), ("TPOT", row.tpot_ms), ("E2E", row.e2e_ms))
    return [(name, times) for name, times in named if times]


def ceiling_words(ceiling: Ceiling) -> tuple[str, str]:
    """What the shares of the roofline are of: the reads, and the rest."""
    rate = ceiling.flops_per_s
    multiplied = f"{significant(rate / 1e9)} GFLOP/s" if rate else "FLOPs not measured"
    several = "" if ceiling.threads == 1 else "s"
    threads = f" on {ceiling.threads} thread{several}" if ceiling.threads else ""
    return (
        f"{significant(ceiling.read_bytes_per_s / 1e9)} GB/s",
        f"{multiplied}, at most {significant(ceiling.read_highest / 1e9)} GB/s: a probe by "
        f"{ceiling.by}{threads} in this run",
    )


def explanations(results: Sequence[Result]) -> list[str]:
    """A line on each term in a table that says nothing to who meets it first."""
    judged = [one for result in results for one in result.judged().values()]
    bounded = any(f.prefill.kld_bound is not None for f in judged)
    rows = [row for result in results for row in result.speed]
    suspects = dict.fromkeys(row.suspect for row in rows if row.suspect)
    found = []
    if bounded:
        found.append("KLD: estimated with sampled logits; at least: what follows without them.")
    found += [
        f"{why[:1].upper()}{why[1:]}, where a slow kernel or a fallback is likely."
        for why in suspects
    ]
    found += dict.fromkeys(note for result in results for note in _of_calibration(result))
    found += dict.fromkeys(_of_scores(one.scores) for one in results if one.scores)
    return found


def _of_calibration(result: Result) -> Iterator[str]:
    """That an engine was judged on text of the kind that it was calibrated on."""
    kind = _kind(result.artifact.calibrated_on or "")
    for label, fidelity in result.judged().items():
        if kind and _kind(fidelity.corpus) == kind:
            yield (
                f"{visible(label or OWN_TEXT)}: text of the kind that {visible(result.precision)} "
                "was calibrated on, and so it may be better there than on yours."
            )


def _kind(corpus: str) -> str:
    """What two parts of one text have in common."""
    return corpus.partition(",")[0]


def _of_scores(scores: Scores) -> str:
    limit = scores.settings.limit
    of = "all documents" if limit is None else f"{limit} documents at most"
    chat = ", through the chat template" if scores.settings.chat_template else ""
    return (
        f"Scores: by lm-evaluation-harness {visible(scores.lm_eval)}, {of} of each task{chat}; "
        "±: its standard error."
    )


def _notes(row: SpeedRow) -> Iterator[str]:
    if row.suspect:
        yield "suspect path"
    if row.drift is not None:
        yield f"drifts by {100 * row.drift:+.0f} %"
    if row.farthest_outlier is not None:
        few = "1 outlier" if row.outliers == 1 else f"{row.outliers} outliers, up to"
        yield f"{few} {100 * row.farthest_outlier:+.0f} %"
    if row.until is not None:
        low, high = row.ci95
        half = (high - low) / (high + low)
        if half > row.until:
            yield (
                f"±{significant(100 * half, 2)} % after {len(row.samples)} repetitions, "
                f"not ±{significant(100 * row.until, 2)} %"
            )
    if row.quick:
        yield "quick, not to be published"


def model_name(artifact: str, precision: str) -> str:
    """An artifact's name without its precision, which tells the rows of one table apart."""
    return artifact.removesuffix(f"-{precision}")
