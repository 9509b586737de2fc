"""Tasks of lm-evaluation-harness on any engine: its `LM` over a session, and a run of it.

Numbers are to be those of lm-eval's own Hugging Face backend on the same weights: the same tokens,
the same windows, the same rules for what is too long.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import fnmatch
import functools
import importlib.metadata
import io
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.utils
import numpy as np
import tqdm.std
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from jinja2 import BaseLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import metric_registry
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.tasks import TaskManager
from numpy.typing import NDArray

import llx
from llx.artifact import Artifact
from llx.bench import steps
from llx.bench.clock import now_ns, timed_step
from llx.bench.generate import Sampling, choose, render_chat
from llx.bench.observed import log_sum_exp
from llx.bench.sessions import Built, Engine, Session
from llx.bench.task_files import refuse_code
from llx.bench.text import tokenizer_of
from llx.corpus import require_known
from llx.errors import BadInput, GateFailed, Lacking, LlxError
from llx.evaluation import EvalSettings, Evaluation, Metric, TaskScore
from llx.progress import Progress, silent
from llx.result import ArtifactRecord

ALLOW_CODE_EVAL = "HF_ALLOW_CODE_EVAL"  # what the metric code_eval wants to see
CHAT_OPTION = "--apply-chat-template"
MOST_NEW = 256  # tokens, where a task names no number: as in the Hugging Face backend
BOOTSTRAP = 1000
BLOCK = 64  # positions whose logits are normalised at once
IDLE_WHEN_GREEDY = {"top_p", "top_k", "min_p", "typical_p"}


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What is to be evaluated. None leaves it to the task."""

    tasks: tuple[str, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    batch: int = 1
    include_path: Path | None = None
    chat: bool = False
    multiturn: bool | None = None  # with a chat template by default, as lm-eval has it
    allow_code: bool = False
    command: str = "llx eval"

    def __post_init__(self) -> None:
        if self.multiturn and not self.chat:
            raise BadInput(
                "--fewshot-as-multiturn needs a chat template",
                f"add {CHAT_OPTION}, or leave it out",
            )


class SessionLM(TemplateLM):  # type: ignore[misc]
    """A session as lm-eval's language model. `truncated` counts what was cut from the left."""

    def __init__(self, artifact: Artifact, session: Session, progress: Progress = silent) -> None:
        super().__init__()
        self._artifact, self._session, self._progress = artifact, session, progress
        self._tokenizer = tokenizer_of(artifact)
        text = artifact.manifest.text
        self._ends = set(text.eos_ids if text else ())
        named = [self._tokenizer.token_to_id(name) for name in _special(artifact)]
        self._bos, self._eos = named
        if self._eos is None and self._ends:
            self._eos = min(self._ends)
        self._held: list[int] = []  # what the cache of a session of one row holds
        self._rng = np.random.default_rng(DEFAULT_OTHER_SEED)
        self.truncated = 0

    @property
    def max_length(self) -> int:
        """Positions that one context can have."""
        return self._session.limits.capacity

    @property
    def eot_token_id(self) -> int:
        """The token at which text ends."""
        if self._eos is None:
            raise Lacking(
                f"{self._artifact.folder} knows neither BOS nor EOS, and a text of no context "
                "needs one before it",
                "export from a checkpoint with a tokenizer_config.json",
            )
        return int(self._eos)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, else EOS."""
        return self.eot_token_id if self._bos is None else int(self._bos)

    @property
    def tokenizer_name(self) -> str:
        """Whose tokenizer this is."""
        return self._artifact.manifest.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, with the tokenizer's own BOS unless the text begins with it."""
        if add_special_tokens is None:
            bos = self._tokenizer.id_to_token(self.prefix_token_id)
            add_special_tokens = not has_bos_prefix(string, bos)
        ids = self._tokenizer.encode(string, add_special_tokens=add_special_tokens).ids
        if ids:
            require_known(max(ids), self._session.limits.vocab)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; without a generation prompt its last message is left open."""
        try:
            text = self._rendered(chat_history, add_generation_prompt)
        except BadInput:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            text = self._rendered(rest, add_generation_prompt)  # as the Hugging Face backend does
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"]
        end = text.rfind(last.strip())
        if end < 0:
            raise BadInput(
                "the chat template changes the words of a message, which cannot be continued then",
                f"leave out {CHAT_OPTION}",
            )
        kept = last.lstrip() if text.startswith(last.lstrip(), end) else last.strip()
        return text[: end + len(kept)]

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return render_chat(self._artifact, messages, add_generation_prompt, CHAT_OPTION)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what greedy decoding gives."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of each whole text, in windows as long as the cache."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            cut = lm_eval.utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(lm_eval.utils.make_disjoint_window, cut):
                windows.append((("", ""), *window))
                owners.append(owner)
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, what="windows")
        for owner, (score, _) in zip(owners, scores, strict=True):
            sums[owner] += score
        return sums

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        what: str = "continuations",
        **_: Any,
    ) -> list[tuple[float, bool]]:
        rows = [self._scored_row(context, wanted) for _, context, wanted in requests]
        scores = [(0.0, True)] * len(rows)
        for group in self._groups([len(row) for row, _ in rows], what):
            sums, greedy = [0.0] * len(group), [True] * len(group)
            targets = [np.array(rows[i][1]) for i in group]
            done = [0] * len(group)
            fed = self._feed([rows[i][0] for i in group], [len(wanted) for wanted in targets])
            for row, logits in fed:
                for at in range(0, len(logits), BLOCK):
                    block = logits[at : at + BLOCK]
                    wanted = targets[row][done[row] : done[row] + len(block)]
                    done[row] += len(block)
                    chosen = block[np.arange(len(block)), wanted].astype(np.float64)
                    sums[row] += float((chosen - log_sum_exp(block)).sum())
                    greedy[row] &= bool((block.argmax(-1) == wanted).all())
            for place, i in enumerate(group):
                scores[i] = sums[place], greedy[place]
        if not np.isfinite([score for score, _ in scores]).all():
            raise GateFailed(
                "the engine's logits are not finite",
                "the precision cannot hold this model: export with --precision fp32 or bf16",
            )
        return scores

    def _scored_row(self, context: list[int], wanted: list[int]) -> tuple[list[int], list[int]]:
        """What is fed, all but the last token, and what each of its last positions should give."""
        if not wanted:
            raise BadInput(
                "a task asks for the likelihood of no token at all",
                "give its continuations text of their own, beyond spaces",
            )
        if len(wanted) > self.max_length:
            raise BadInput(
                f"a continuation has {len(wanted)} tokens, and the cache {self.max_length} "
                "positions",
                "export with a larger --context",
            )
        whole = (context or [self.prefix_token_id]) + wanted
        self.truncated += len(whole) > self.max_length + 1
        return whole[-(self.max_length + 1) :][:-1], wanted

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Text that continues each prompt up to a stop sequence, an end token or a length."""
        jobs = [self._generation(*request.args) for request in requests]
        texts = [""] * len(jobs)
        for group in self._groups([len(job.prompt) for job in jobs], "answers"):
            for i, text in zip(group, self._generated([jobs[i] for i in group]), strict=True):
                texts[i] = text
        return texts

    def _generation(self, context: str, options: dict[str, Any]) -> _Generation:
        kwargs = dict(normalize_gen_kwargs(options, MOST_NEW))
        eos = self._tokenizer.id_to_token(self.eot_token_id)
        until = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
        most = int(kwargs.pop("max_gen_toks"))
        sampled = bool(kwargs.pop("do_sample"))
        temperature = float(kwargs.pop("temperature", 1.0))
        top_p = float(kwargs.pop("top_p", 1.0)) if sampled else 1.0
        unknown = set(kwargs) - (set() if sampled else IDLE_WHEN_GREEDY)
        if unknown:
            raise BadInput(
                f"a task generates with {', '.join(sorted(unknown))}, which llx does not know",
                "choose tasks that generate with temperature and top_p alone",
            )
        room = self.max_length - most
        if room < 1:
            raise BadInput(
                f"a task generates {most} tokens, and the cache has {self.max_length} positions",
                "export with a larger --context",
            )
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        self.truncated += len(prompt) > room
        sampling = Sampling(temperature=temperature if sampled else 0.0, top_p=top_p)
        return _Generation(prompt[-room:], until, most, sampling)

    def _generated(self, jobs: list[_Generation]) -> list[str]:
        """Decode a row for each job, every one at a position of its own."""
        out: list[list[int]] = [[] for _ in jobs]
        texts, live = [""] * len(jobs), set(range(len(jobs)))

        def take(row: int, logits: NDArray[np.float32]) -> None:
            job, token = jobs[row], choose(logits, jobs[row].sampling, self._rng)
            out[row].append(token)
            if token not in self._ends:
                texts[row] = self._tokenizer.decode(out[row], skip_special_tokens=True)
            stopped = token in self._ends or any(stop in texts[row] for stop in job.until if stop)
            if stopped or len(out[row]) >= job.most:
                live.discard(row)

        for row, logits in self._feed([job.prompt for job in jobs], [1] * len(jobs)):
            take(row, logits[-1])
        # A row that is done, or of no job, gets its last token again at the same place.
        last = np.zeros((self._session.rows, 1), np.int64)
        positions = np.zeros_like(last)
        while live:
            for row in live:
                last[row], positions[row] = out[row][-1], len(jobs[row].prompt) + len(out[row]) - 1
            timed_step(self._session, last, positions, np.zeros_like(last))
            logits_now = self._session.logits()
            for row in sorted(live):
                take(row, logits_now[row, 0])
        return [
            postprocess_generated_text(text, job.until, None)
            for text, job in zip(texts, jobs, strict=True)
        ]

    def _groups(self, lengths: list[int], what: str) -> Iterator[list[int]]:
        """Which requests are fed together; each is done when the next is asked for.

        One at a time they stay in order, where neighbours share their beginning; rows of a batch
        are as long as the longest, so those go by length.
        """
        rows, total = self._session.rows, len(lengths)
        order = sorted(range(total), key=lambda i: -lengths[i]) if rows > 1 else range(total)
        for at in range(0, total, rows):
            self._progress(what, at, total, "request")
            yield list(order[at : at + rows])
        self._progress(what, total, total, "request")

    def _feed(
        self, rows: list[list[int]], wanted: list[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Feed rows, padded on the right, and yield the logits of their last `wanted` positions.

        In order for each row, as (row, logits [n, V]), valid until the next. What the cache of a
        session of one row holds already is not fed again.
        """
        start = 0
        if self._session.rows == 1:
            start = min(_shared(self._held, rows[0]), len(rows[0]) - wanted[0])
            self._held = rows[0]
        if not start:
            self._session.reset()
        tokens = np.zeros((self._session.rows, max(map(len, rows))), np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        for part, positions in steps.chunks(self._session, tokens[:, start:], start):
            first, after = int(positions[0, 0]), int(positions[0, -1]) + 1
            picked = [
                range(max(len(ids) - count, first) - first, min(len(ids), after) - first)
                for ids, count in zip(rows, wanted, strict=True)
            ]
            index = np.zeros((len(part), max(1, *map(len, picked))), np.int64)
            for row, places in enumerate(picked):
                index[row, : len(places)] = places
            timed_step(self._session, part, positions, index)
            logits = self._session.logits()
            yield from ((row, logits[row, : len(p)]) for row, p in enumerate(picked) if p)


@dataclass(frozen=True)
class _Generation:
    """A prompt's tokens and how it goes on."""

    prompt: list[int]
    until: list[str]
    most: int
    sampling: Sampling


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _special(artifact: Artifact) -> tuple[str, str]:
    """BOS and EOS as the tokenizer spells them; empty where there is none."""
    text = artifact.manifest.text
    return (text.bos_token, text.eos_token) if text else ("", "")


def run(
    artifact: Artifact,
    engine: Engine,
    request: EvalRequest,
    built: Built | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate an artifact. Tasks are made before the engine is opened: they fail sooner."""
    began = now_ns()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # With its processes, a bootstrap would fork beside the engine's threads.
    os.environ["DISABLE_MULTIPROC"] = "1"
    with _contained(request.allow_code):
        with contextlib.nullcontext() if sys.stderr.isatty() else _without_bars():
            loaded = load_tasks(request)
        session = engine.open(artifact, request.batch, built)
        try:
            lm = SessionLM(artifact, session, progress)
            found = _evaluated(lm, loaded, request)
            details = session.details()
            weights, capacity = session.weights, session.limits.capacity
        finally:
            session.close()
    manifest = artifact.manifest
    return Evaluation(
        llx=llx.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=request.command,
        engine=engine.name,
        precision=manifest.precision.name,
        artifact=ArtifactRecord(
            name=manifest.name,
            sha256=artifact.sha256,
            bytes=artifact.model_bytes,
            params=manifest.spec.parameters,
            source=manifest.source.label,
            weights=weights,
            quantization=manifest.quantization.in_words if manifest.quantization else None,
        ),
        settings=EvalSettings(
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            batch=request.batch,
            capacity=capacity,
            chat_template=request.chat,
            fewshot_as_multiturn=_multiturn(request),
            allow_code=request.allow_code,
            seed=DEFAULT_RANDOM_SEED,
            fewshot_seed=DEFAULT_OTHER_SEED,
            bootstrap=BOOTSTRAP,
        ),
        versions={
            name: importlib.metadata.version(name) for name in ("lm-eval", "datasets", "tokenizers")
        },
        details=details,
        tasks=list(_scores(found)),
        requests=dict(
            Counter(i.request_type for task in loaded["tasks"].values() for i in task.instances)
        ),
        truncated=lm.truncated,
        seconds=(now_ns() - began) / 1e9,
    )


def _multiturn(request: EvalRequest) -> bool:
    return request.chat if request.multiturn is None else request.multiturn


def _evaluated(lm: SessionLM, loaded: dict[str, Any], request: EvalRequest) -> dict[str, Any]:
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    for task in loaded["tasks"].values():
        # A task that says 0 means it: its prompt holds its examples already.
        own = task.get_config("num_fewshot")
        if own is None or (request.num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=request.num_fewshot or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    try:
        with _without_bars(), contextlib.redirect_stdout(io.StringIO()):  # a bootstrap prints
            found: dict[str, Any] = evaluate(
                lm=lm,
                task_dict=loaded,
                limit=request.limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
                apply_chat_template=request.chat,
                fewshot_as_multiturn=_multiturn(request),
                confirm_run_unsafe_code=request.allow_code,
            )
    except TemplateError as error:
        raise BadInput(f"a task's template fails ({_line(error)})", "mend its YAML") from None
    return found


def load_tasks(request: EvalRequest) -> dict[str, Any]:
    """The tasks by name, with their data. Run it within `_contained`.

    Raises `BadInput` for an unknown task and for one that would run code, and `Lacking` where data
    cannot be had.
    """
    if request.include_path and not request.allow_code:
        refuse_code(request.include_path)
    manager, names = _found(request)
    if not request.allow_code:
        _refuse_unsafe(manager, names)
    chosen: list[Any] = []
    for name in names:
        loaded = _load_one(manager, name)
        groups = loaded.get("groups", {})
        chosen += [groups[name]] if name in groups else loaded["tasks"].values()
    try:
        loaded = manager.load(chosen)
    except ValueError as error:
        raise BadInput(_line(error), "name each task once, by itself or by a group") from None
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) and not request.allow_code:
            raise _runs_code(name, "unsafe_code")
    return dict(loaded)


def _found(request: EvalRequest) -> tuple[TaskManager, list[str]]:
    """A manager that knows the tasks, and their names, patterns resolved.

    lm-eval reads some 15,000 files to know its own tasks: not where the folder has all that is
    asked for.
    """
    if request.include_path:
        own = TaskManager(include_path=str(request.include_path), include_defaults=False)
        if set(request.tasks) <= set(own.all_subtasks):
            return own, list(dict.fromkeys(request.tasks))
    include = str(request.include_path) if request.include_path else None
    manager = TaskManager(include_path=include)
    names: list[str] = []
    for asked in request.tasks:
        matches = fnmatch.filter(manager.all_tasks, asked)
        if not matches:
            near = difflib.get_close_matches(asked, manager.all_tasks, 3)
            where = " or in --include-path" if include else ""
            raise BadInput(
                f"no task in lm-eval {importlib.metadata.version('lm-eval')}{where} is named "
                f"{asked!r}",
                f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them",
            )
        names += matches
    return manager, list(dict.fromkeys(names))


def _refuse_unsafe(manager: TaskManager, names: list[str]) -> None:
    """Raise `BadInput` where a task, or one of a group, says of itself that it runs code.

    Before it is loaded: such a task may fetch a script as it is.
    """
    todo, seen = list(names), set[str]()
    while todo:
        name = todo.pop()
        entry = manager.task_index.get(name)
        if entry is None or name in seen:
            continue
        seen.add(name)
        if entry.cfg is None:  # a tag
            todo += entry.tags
            continue
        if entry.cfg.get("unsafe_code", False) is not False:
            raise _runs_code(name, "unsafe_code")
        members = entry.cfg.get("task")
        todo += _names_in(members) if isinstance(members, list) else []


def _names_in(members: list[Any]) -> Iterator[str]:
    for member in members:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            inner = member.get("group", member.get("task"))
            if isinstance(inner, str):
                yield inner
            if isinstance(member.get("task"), list):
                yield from _names_in(member["task"])


def _runs_code(task: str, what: str) -> BadInput:
    return BadInput(
        f"task {task} has {what}: it runs code, or what the model writes",
        "allow that with --allow-code, in a machine that may be lost",
    )


def _load_one(manager: TaskManager, name: str) -> Any:
    try:
        return manager.load([name])
    except LlxError:
        raise
    except ImportError as error:
        raise Lacking(
            f"task {name} needs {error.name}, not installed here", f"pip install {error.name}"
        ) from None
    except FileNotFoundError as error:
        if not isinstance(error, DatasetNotFoundError):
            raise BadInput(
                f"the data of task {name} is not there ({_line(error)})",
                "mend data_files in its YAML; paths go from the working directory",
            ) from None
        raise _unreachable(name, error) from None
    except (DatasetsError, OSError) as error:
        raise _unreachable(name, error) from None
    except Exception as error:
        raise BadInput(
            f"task {name} cannot be made ({type(error).__name__}: {_line(error)})", "mend its YAML"
        ) from None


def _unreachable(name: str, error: Exception) -> Lacking:
    return Lacking(
        f"the data of task {name} cannot be had ({_line(error)})",
        "check its dataset_path and the network; without one, bring the cache (HF_HOME) from a "
        "machine that has run it",
    )


def _line(error: Exception) -> str:
    """An error of another library on one line, not too long a one."""
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else words[:199] + "…"


@contextlib.contextmanager
def _contained(allow_code: bool) -> Iterator[None]:
    """Keep task files from running code while tasks are loaded and run.

    lm-eval renders templates without a sandbox, and looks for a metric that it does not know in
    `evaluate`, which runs a script of that name from the hub or from disk.
    """

    def known_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
        if hf_evaluate_metric or name not in metric_registry:
            raise BadInput(
                f"the metric {name!r} is a script that `evaluate` would run",
                "allow that with --allow-code, or choose a metric of lm-eval",
            )
        return metric(name)

    metric, template, variable = lm_eval.api.task.get_metric, lm_eval.utils.env, ALLOW_CODE_EVAL
    sandbox = SandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    sandbox.filters.update(template.filters)
    before = os.environ.pop(variable, None)
    lm_eval.utils.env = sandbox
    if allow_code:
        os.environ[variable] = "1"
    else:
        lm_eval.api.task.get_metric = known_metric
    try:
        yield
    finally:
        lm_eval.utils.env, lm_eval.api.task.get_metric = template, metric
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No bars but our own."""
    bars = tqdm.std.tqdm.__init__
    tqdm.std.tqdm.__init__ = functools.partialmethod(bars, disable=True)
    try:
        yield
    finally:
        tqdm.std.tqdm.__init__ = bars


def _scores(found: dict[str, Any]) -> Iterator[TaskScore]:
    """What lm-eval's result says, in types: metrics are named `metric,filter` there."""
    groups = found.get("groups") or {}
    for name, row in {**found["results"], **groups}.items():
        metrics = []
        for key, value in row.items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            stderr = row.get(f"{metric}_stderr,{how}")
            better = found.get("higher_is_better", {}).get(name, {}).get(metric)
            metrics.append(
                Metric(
                    metric=metric,
                    filter=how,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, (int, float)) else None,
                    higher_is_better=better if isinstance(better, bool) else None,
                )
            )
        samples = found.get("n-samples", {}).get(name, {})
        version = found.get("versions", {}).get(name)
        yield TaskScore(
            task=name,
            group=name in groups,
            version=None if version in (None, "N/A", "Yaml") else str(version),
            fewshot=_number(found.get("n-shot", {}).get(name)),
            documents=_number(samples.get("effective")),
            of=_number(samples.get("original")),
            metrics=metrics,
        )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
