"""What `llx.check` compares: the engines, and ONNX Runtime over each graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from llx.artifact import Artifact
from llx.bench.session import Session
from llx.bench.sessions import ENGINES, Engine
from llx.errors import LlxError
from llx.gpu import find_gpu


class Candidate(NamedTuple):
    """What is compared: an engine, and the graph that it runs, or an engine of."""

    name: str
    engine: Engine
    dialect: str | None
    open: Callable[[], Session]


def candidates(artifact: Artifact, engines: Sequence[str] | None) -> Iterator[Candidate]:
    """Every engine that does not compile nor round, or those named, and ORT over each graph.

    Where there is no GPU, nothing is said of the engines that need one, unless they are named.
    """
    for engine in ENGINES.values():
        left_out = engine.compiles or engine.rounds or (engine.gpu and not find_gpu())
        if engines is None and left_out:
            continue
        if engines is not None and engine.name not in engines:
            continue
        opens = partial(engine.open, artifact, 1)
        yield Candidate(engine.name, engine, _dialect_of(artifact, engine), opens)
    ort = ENGINES["ort"]
    seen = {ort.dialect_of(artifact)} | ({"standard"} if engines is None else set())
    if engines is None or ort.name in engines:
        for dialect in artifact.dialects:
            if dialect not in seen:
                named = ENGINES.get(f"ort-{dialect}")
                name = named.name if named else f"ort, {dialect}"
                yield Candidate(name, ort, dialect, partial(_open_ort, artifact, dialect))


def _dialect_of(artifact: Artifact, engine: Engine) -> str | None:
    """The graph that an engine runs; of one that is built, the graph that it was built of."""
    if engine.runtime is None:
        return engine.dialect_of(artifact)
    from llx.bench.session import Built
    from llx.bench.sessions.trt import chosen_engine

    try:
        return chosen_engine(artifact, engine.runtime, 1, Built()).manifest.key.dialect
    except LlxError:  # said when it is opened
        return None


def _open_ort(artifact: Artifact, dialect: str) -> Session:
    from llx.bench.sessions.ort import OrtSession

    return OrtSession(artifact, 1, dialect)
