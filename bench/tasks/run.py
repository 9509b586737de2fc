"""Tasks of lm-evaluation-harness on any engine: one run, and what it scored."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import io
import json
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tqdm.std
from jinja2 import TemplateError
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate

import llx
from llx.artifact import Artifact
from llx.bench.clock import now_ns
from llx.bench.machine import environment
from llx.bench.sessions import Built, Engine
from llx.bench.tasks.lm import SessionLM
from llx.bench.tasks.load import contained, load_tasks
from llx.errors import BadInput, LlxError, one_line
from llx.evaluation import EvalRequest, Evaluation
from llx.files import make_folder, write_whole
from llx.gpu import find_gpu
from llx.progress import Progress, silent
from llx.result import ArtifactRecord
from llx.scores import EvalSettings, Metric, TaskScore
from llx.templates import day_of

BOOTSTRAP = 1000


def run_tasks(
    artifact: Artifact,
    engine: Engine,
    request: EvalRequest,
    built: Built | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate an artifact. Tasks are made before the engine is opened: they fail sooner."""
    load_before = environment.load()
    began, now = now_ns(), day_of(request.date)  # the same time for every conversation
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # With its processes, a bootstrap would fork beside the engine's threads.
    os.environ["DISABLE_MULTIPROC"] = "1"
    with contained(request.allow_code, own_files=request.include_path is not None):
        with contextlib.nullcontext() if sys.stderr.isatty() else _without_bars():
            loaded = load_tasks(request)
        session = engine.open(artifact, request.batch, built)
        try:
            lm = SessionLM(artifact, session, progress, now)
            try:
                found = _evaluated(lm, loaded, request)
                if request.log_samples:
                    named = f"{artifact.manifest.name}-{engine.name}"
                    _write_samples(request.log_samples / named, found)
            finally:
                lm.close()
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
        artifact=ArtifactRecord.of(artifact, weights),
        settings=EvalSettings(
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            batch=request.batch,
            capacity=capacity,
            chat_template=request.chat,
            date=str(now.date()) if request.chat else None,
            fewshot_as_multiturn=request.turns,
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
        without_system=lm.without_system,
        seconds=(now_ns() - began) / 1e9,
        environment=environment.read_environment(
            details.get("threads"),
            load_before,
            environment.load(),
            find_gpu() if engine.gpu else None,
        ),
    )


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
                log_samples=request.log_samples is not None,
                apply_chat_template=request.chat,
                fewshot_as_multiturn=request.turns,
                confirm_run_unsafe_code=request.allow_code,
            )
    except TemplateError as error:
        raise BadInput(f"a task's template fails ({one_line(error)})", "mend its YAML") from None
    except LlxError:
        raise
    except Exception as error:
        if request.include_path is None:
            raise
        raise BadInput(
            f"a task of --include-path cannot be run ({type(error).__name__}: {one_line(error)})",
            "mend its YAML",
        ) from None
    return found


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No bars but our own."""
    bars = tqdm.std.tqdm.__init__
    tqdm.std.tqdm.__init__ = functools.partialmethod(bars, disable=True)
    try:
        yield
    finally:
        tqdm.std.tqdm.__init__ = bars


def _write_samples(folder: Path, found: dict[str, Any]) -> None:
    """A file for each task, named and filled as lm-eval does it."""
    make_folder(folder)
    for task, samples in found.get("samples", {}).items():
        lines = (json.dumps(sample, default=str, ensure_ascii=False) for sample in samples)
        name = "".join("_" if character in "/\\:\0" else character for character in task)
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
        write_whole(folder / f"samples_{name}.jsonl", data)


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
