"""`Result` (`llx.result/1`): what one engine did with one artifact on one machine.

Raw samples are stored and every statistic is derived from them. Units are in the names. A result
read from a file is untrusted data: `read_results` decodes it against these types.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from llx.conditions import EnergyRecord, GpuRecord, MachineRecord, RunRecord
from llx.contradictions import contradictions
from llx.errors import BadInput, printable
from llx.nearby import near_in_words
from llx.notebook import html_table, with_deviation
from llx.scores import Scores
from llx.typed import refuse_newer

if TYPE_CHECKING:
    from llx.artifact import Artifact

Amount = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
"""Of a time, a rate, a size, a divergence: a result that says less than nothing is none."""


MOST_COUNT = 1 << 63


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its standard error."""

    value: Amount
    se: Amount


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Percentiles of pooled samples, in the unit that the field's name says."""

    p50: Amount
    p90: Amount
    p95: Amount
    p99: Amount


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds over the repetitions: mean, standard deviation, percentiles."""

    mean: Amount
    sd: Amount
    p50: Amount
    p90: Amount
    p95: Amount
    p99: Amount


@dataclass(frozen=True, kw_only=True)
class MemoryRecord:
    """Peak of the process that measured speed, and the cache that it held.

    `engine_bytes`: size of a built engine's file.
    """

    peak_host_bytes: Count | None
    peak_device_bytes: Count | None = None
    cache_bytes: Count | None = None
    engine_bytes: Count | None = None


def on_text(measure: str, text: str) -> str:
    """A measure's name with the user's text that it is of."""
    return f"{measure}, {text}" if text else measure


def name_of(test: str, batch: int) -> str:
    """A test's name, and its batch where that is not 1."""
    return f"{test} b{batch}" if batch > 1 else test


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One test, such as pp512 or tg128 @ d0: tok/s of each repetition, and what follows from them.

    `isl` and `osl` are input and output lengths, `depth` the positions filled beforehand. The unit
    counts output tokens where there are any, else input tokens. `ci_method` also says whether
    `ci95` is about the mean or the median. Outliers are counted, and stay in every statistic.
    """

    test: str
    isl: Count
    osl: Count
    depth: Count
    batch: Count
    unit: Literal["tok/s"] = "tok/s"
    samples: list[Amount]
    step_ns: list[list[int]]
    mean: Amount
    sd: Amount
    median: Amount | None = None
    ci95: tuple[float, float]
    ci_method: str | None = None
    drift: float | None = None  # change from first to last repetition as a share, where it shows
    outliers: Count = 0
    farthest_outlier: float | None = None  # its distance from the median, as a share of it
    warmup: int | None = None  # repetitions before the first that counts
    seed: int | None = None  # of the random prompts
    until: Amount | None = None  # half the interval's width as a share that repetitions went on for
    quick: bool = False  # lengths too short to publish
    memory: MemoryRecord | None = None  # of the process that ran it
    ttft_ms: Times | None = None
    tpot_ms: Times | None = None
    itl_ms: Percentiles | None = None
    e2e_ms: Times | None = None
    bytes_per_step: Count | None = None  # what a decode step must read: weights and filled cache
    bytes_per_step_actual: Count | None = None  # what it does: attention may read all of the cache
    predicted_ms: Amount | None = None
    roofline_probe: Amount | None = None
    roofline_spec: Amount | None = None
    suspect: str | None = None  # what is doubtful about a row that is valid all the same
    energy: EnergyRecord | None = None
    valid: bool = True
    invalid_reason: str | None = None  # each reason, with a semicolon between them

    @property
    def name(self) -> str:
        """What it is called where it fails, or is compared."""
        return name_of(self.test, self.batch)

    @property
    def of_median(self) -> bool:
        """Whether the interval is about the median: outliers showed."""
        return self.median is not None and "median" in (self.ci_method or "")

    @property
    def speed(self) -> float:
        """What the interval is about: the median, or the mean."""
        return self.median if self.of_median and self.median is not None else self.mean


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the machine could do in this run, by a probe: the roofline that speeds are held to.

    `by`: the library whose matrix product was the fastest reader. `working_set`: bytes that were
    read. Rates are the median of what was sampled, moments of the run, and the highest of it.
    """

    by: str
    working_set: Count
    threads: Count | None
    read_bytes_per_s: Amount
    read_highest: Amount
    read_samples: list[Amount]
    flops_per_s: Amount | None = None
    flops_highest: Amount | None = None
    flops_samples: list[Amount] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Kullback-Leibler divergence KL(reference ‖ engine) per token, in nats."""

    mean: Amount
    se: Amount
    p50: Amount
    p90: Amount
    p99: Amount
    max: Amount


@dataclass(frozen=True, kw_only=True)
class SpanDivergence:
    """The mean KLD, in nats, of the tokens scored at some positions of all windows, and its SE.

    `first` and `last` are positions whose logits were judged, from 0, both counted in.
    """

    first: Count
    last: Count
    mean: Amount
    se: Amount


@dataclass(frozen=True, kw_only=True)
class PhaseFidelity:
    """Fidelity of one way to reach the logits: prefill in chunks, or decode token by token.

    `nll`: what each scored token cost, in nats, window by window; kept of the prefill alone.
    """

    tokens: Count
    ppl: Amount
    ppl_se: Amount
    ppl_ratio: Estimate
    kld_mean: Amount
    kld: Divergence
    same_top1: Estimate
    rms_dp: Estimate
    max_abs_logit_error: Amount
    mean_abs_logit_error: Amount
    kld_bound: Amount | None = None  # no estimate: the mean KLD is as much or more
    kld_by_position: list[SpanDivergence] = field(default_factory=list)
    nll: list[Amount] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """An engine against the PyTorch fp32 reference of the same checkpoint, on the same tokens.

    The statistics at the top are those of the prefill. `tokens_sha256`: of the windows' tokens,
    [W, N] in 64 bits, little-endian; older results have none.
    """

    reference: Literal["pytorch-fp32"] = "pytorch-fp32"
    reference_weights: str
    corpus: str
    corpus_sha256: str
    window: Count
    windows: Count
    stride: Count
    bos: str
    text: str | None = None  # the name of a user's text; None is llx's own
    scored: Count | None = None  # the last tokens of each window; None is all but its first
    tokens: Count
    tokens_sha256: str | None = None
    top_k: Count  # logits compared per token: the reference's likeliest,
    tail_samples: Count  # and so many drawn from the others by their probability
    ppl: Amount
    ppl_se: Amount
    ppl_reference: Amount
    ppl_ratio: Estimate
    kld: Divergence
    same_top1: Estimate
    rms_dp: Estimate
    prefill: PhaseFidelity
    decode: PhaseFidelity


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """Which artifact was measured, and which weights the engine read."""

    name: str
    sha256: str
    bytes: Count
    params: Count
    source: str
    weights: str
    quantization: str | None = None  # how, in words; None where nothing is quantized
    calibrated_on: str | None = None  # the text's name; None without one, and in older results
    graph_nodes: dict[str, int] = field(default_factory=dict)  # by dialect

    @classmethod
    def of(cls, artifact: Artifact, weights: str) -> ArtifactRecord:
        """An artifact, and the weights that an engine read, in words."""
        manifest = artifact.manifest
        record = manifest.quantization
        return cls(
            name=manifest.name,
            sha256=artifact.sha256,
            bytes=artifact.model_bytes,
            params=manifest.spec.parameters,
            source=manifest.source.label,
            weights=weights,
            quantization=record.in_words if record else None,
            calibrated_on=record.corpus if record else None,
            graph_nodes={
                Path(name).stem: record.nodes
                for name, record in manifest.files.items()
                if record.nodes is not None
            },
        )


@dataclass(frozen=True, kw_only=True)
class EnvironmentRecord:
    """The machine and its state. None and "not measured" mean what they say.

    `device_fingerprint`: equal only where wall clocks may be compared. `notes`: what makes them
    doubtful here.
    """

    device: str
    device_fingerprint: str
    os: str
    python: str
    versions: dict[str, str]
    threads: int | None
    clocks: str
    power_mode: str
    load_before: float | None
    load_after: float | None
    machine: MachineRecord | None = None
    gpu: GpuRecord | None = None
    run: RunRecord | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TimeRecord:
    """Seconds to load the engine, and to build it where it is built.

    `load_s` is the median of `loads_s`: each test loads it in a process of its own.
    """

    load_s: Amount
    loads_s: list[Amount] = field(default_factory=list)
    build_s: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """Why an engine has no numbers, and what would change that."""

    message: str
    remedy: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class ComparedTest:
    """A test of a candidate and its baseline, measured in turns.

    `ratio`: of the candidate's speed to the baseline's, over 1 is better, with its 95 % interval.
    Both speeds are geometric means, or medians, by `ci_method`.
    `noise`: by how much two runs of the baseline itself may differ, as a share, in this very test.
    """

    test: str
    batch: int
    baseline_mean: Amount
    mean: Amount
    ratio: Amount
    ci95: tuple[float, float]
    ci_method: str
    noise: Amount
    verdict: Literal["faster", "slower", "no change", "inconclusive"]

    @property
    def name(self) -> str:
        """As `SpeedRow.name`."""
        return name_of(self.test, self.batch)


@dataclass(frozen=True, kw_only=True)
class Against:
    """What a result was measured in turns with, and how they compare.

    `model`: the candidate's distributions against the baseline's, of the prefill of the tokens that
    both were judged on first; its `ppl_ratio` is of the candidate's perplexity to the baseline's.
    """

    engine: str
    precision: str
    artifact: str
    artifact_sha256: str
    threshold: float  # a change that matters, as a share
    tests: list[ComparedTest]
    model: PhaseFidelity | None = None


MOST_SHOWN = 4  # tests, in a line
FIDELITY = "fidelity"  # what the judging is called among the tests,
BESIDE = "beside the baseline"  # and a candidate's being held against the baseline's logits


@dataclass(frozen=True, kw_only=True)
class FailedTest:
    """A test, or the judging, whose process crashed, hung, was killed or refused."""

    test: str
    error: ErrorRecord


@dataclass(frozen=True, kw_only=True)
class Result:
    """One engine, one artifact, one machine."""

    schema: Literal["llx.result/1"] = "llx.result/1"
    llx: str
    created: str
    command: str
    engine: str
    precision: str
    dialect: str | None
    artifact: ArtifactRecord
    environment: EnvironmentRecord
    speed: list[SpeedRow] = field(default_factory=list)
    failed: list[FailedTest] = field(default_factory=list)
    interrupted: bool = False  # by Ctrl-C: some of what was asked for is missing
    ceiling: Ceiling | None = None
    no_ceiling: str | None = None  # why there is none
    turns: str | None = None  # shared by results that were measured in turns
    against: Against | None = None  # the baseline, where this one is the candidate
    fidelity: Fidelity | None = None
    other_texts: list[Fidelity] = field(default_factory=list)  # where it was judged on several
    scores: Scores | None = None  # of `llx eval`
    memory: MemoryRecord | None = None
    time: TimeRecord | None = None
    details: dict[str, str | bool | int | float | None] = field(
        default_factory=dict
    )  # of the engine
    energy: EnergyRecord | None = None  # of all tests that generate, or else of the others
    unjudged: str | None = None  # why there is speed and no fidelity
    error: ErrorRecord | None = None

    @property
    def only_scored(self) -> bool:
        """Whether it holds what `llx eval` found, and nothing else."""
        return bool(self.scores) and not (
            self.speed or self.fidelity or self.failed or self.error or self.memory
        )

    def judged(self) -> dict[str, Fidelity]:
        """All that it was judged on, by the text's name; "" is llx's own.

        Another cut of the same text has its window behind the name.
        """
        found: dict[str, Fidelity] = {}
        for one in [self.fidelity, *self.other_texts] if self.fidelity else []:
            name, cut = one.text or "", f"{one.text or ''}@{one.window}"
            names = itertools.chain((name, cut), (f"{cut}#{n}" for n in itertools.count(2)))
            found[next(name for name in names if name not in found)] = one
        return found

    def phases(self) -> Iterator[tuple[str, str, PhaseFidelity]]:
        """Both phases of all that it was judged on: its name, the text's, and what it showed."""
        for text, fidelity in self.judged().items():
            yield "prefill", text, fidelity.prefill
            yield "decode", text, fidelity.decode

    def __repr__(self) -> str:
        """What it is of, and what came of it, in a line."""
        said = [f"{row.test} {row.speed:.4g} {row.unit}" for row in self.speed[:MOST_SHOWN]]
        said += ["…"] if len(self.speed) > MOST_SHOWN else []
        said += [on_text(f"KLD {one.kld.mean:.2g}", text) for text, one in self.judged().items()]
        said += [f"{len(self.scores.tasks)} tasks"] if self.scores else []
        said += [f"{len(self.failed)} failed"] if self.failed else []
        said += [f"error: {self.error.message}"] if self.error else []
        of = f"{self.artifact.name}, {self.precision}, {self.engine}"
        return printable(f"<llx.Result: {of}: {', '.join(said) or 'nothing measured'}>")

    def _repr_html_(self) -> str:
        """A small table for notebooks: each test, fidelity, and what went wrong."""
        rows = [
            (row.test, f"{_with_deviation(row)} {row.unit}", row.invalid_reason or "")
            for row in self.speed
        ]
        for text, judged in self.judged().items():
            ppl = f"{judged.ppl:.4g}"
            rows.append((on_text("PPL", text), ppl, f"PyTorch fp32 {judged.ppl_reference:.4g}"))
            kld = f"{judged.kld.mean:.2g} ± {judged.kld.se:.1g}"
            rows.append((on_text("KLD", text), kld, "nats per token"))
        for name, _, metric in self.scores.metrics() if self.scores else ():
            rows.append((name, f"{metric.value:.4g}", f"± {metric.stderr or 0:.2g}"))
        rows += [(one.test, "failed", one.error.message) for one in self.failed]
        if self.error:
            rows.append(("error", "", self.error.message))
        title = f"{self.artifact.name} · {self.precision} · {self.engine}"
        return html_table(f"{title} · {self.environment.device}", (), rows)


def _with_deviation(row: SpeedRow) -> str:
    return f"{row.speed:,.4g} median" if row.of_median else with_deviation(row.mean, row.sd)


def encode_results(results: list[Result]) -> bytes:
    """Results as JSON, a list."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def read_results(path: Path) -> list[Result]:
    """Read a file of `llx bench -o json` or `-o jsonl`. Raises `BadInput` where it is neither."""
    try:
        data = path.read_bytes()
        if data.lstrip()[:1] == b"[":
            found = msgspec.json.decode(data, type=list[Result])
        else:
            found = msgspec.json.Decoder(Result).decode_lines(data)
    except OSError as error:
        near = "" if path.exists() else near_in_words(path)
        raise BadInput(
            f"{path} cannot be read ({error.strerror}){near}", "name a result file"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse_newer(path, data, "llx.result")
        raise BadInput(
            f"{path} is not a list of llx.result/1 ({error})",
            "write one with `llx bench -o json > results.json`",
        ) from None
    if any(map(_is_beyond, found)):
        raise BadInput(
            f"{path} is not a list of llx.result/1 (a whole number of it is beyond 64 bits)",
            "write one with `llx bench -o json > results.json`",
        )
    if wrong := next(contradictions(found), None):
        raise BadInput(
            f"{path} contradicts itself: {wrong.removeprefix('[0].')}",
            "use the file that `llx bench -o json` wrote, as it was",
        )
    if not found:
        raise BadInput(
            f"{path} holds no results", "write some with `llx bench -o json > results.json`"
        )
    return found


def _is_beyond(value: object) -> bool:
    """Whether a whole number in it is one that nothing counts to, and no float holds."""
    if isinstance(value, int):
        return not -MOST_COUNT <= value <= MOST_COUNT
    if isinstance(value, dict):
        return any(map(_is_beyond, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_beyond, value))
    return is_dataclass(value) and any(map(_is_beyond, vars(value).values()))
