"""What an artifact holds: `llx inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llx.api.watching import AnyArtifact, opened
from llx.artifact import Artifact
from llx.bench.roofline.work import bytes_where_masked
from llx.engine import engines_of
from llx.errors import BadInput
from llx.graphs.inspect import op_counts, weight_groups
from llx.reports.artifacts import engine_row, quantization_in_words
from llx.reports.units import binary_bytes, parameters


@dataclass(frozen=True)
class Section:
    """A table: its title, its headings (`>` aligns to the right) and its rows."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Inspection:
    """What an artifact is, in lines, and what it holds, in tables."""

    lines: list[str]
    sections: list[Section]


def inspect(artifact: AnyArtifact = None) -> Inspection:
    """Look at an artifact: ops, bytes of the weights, bytes that a decode step reads, engines."""
    found = opened(artifact)
    return Inspection(list(_lines(found)), list(_sections(found)))


def _lines(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    spec, source = manifest.spec, manifest.source
    yield (
        f"{artifact.folder}: {source.label} ({source.format}), {parameters(spec.parameters)} "
        f"parameters, {manifest.precision.name}"
    )
    yield (
        f"L {spec.layers}, dim {spec.dim}, H {spec.heads}, Hkv {spec.kv_heads}, D {spec.head_dim}, "
        f"F {spec.ffn_dim}, V {spec.vocab}, context {spec.context}, capacity "
        f"{manifest.contract.limits.capacity}"
    )
    if manifest.quantization:
        yield quantization_in_words(manifest.quantization)


def _sections(artifact: Artifact) -> Iterator[Section]:
    yield Section("graphs", ("dialect", ">nodes", "ops"), list(_graphs(artifact)))
    if not artifact.dialects:
        raise BadInput(f"{artifact.folder} holds no graph", "export again with --overwrite")
    groups = weight_groups(artifact.trusted_graph(artifact.dialects[0]))
    total = sum(groups.values())
    rows = [(name, binary_bytes(n), f"{100 * n / total:.1f} %") for name, n in groups.items()]
    yield Section("weights", ("group", ">bytes", ">share"), rows)
    headings = (">positions filled", ">ort and openvino read", ">TensorRT reads: all of the cache")
    yield Section("bytes of a decode step", headings, list(_reads(artifact)))
    engines = [engine_row(engine) for engine in engines_of(artifact)]
    if engines:
        yield Section(
            "engines, newest first; ratio: of their size to the weights'",
            ("engine", "version", "graph", ">size", ">ratio", ">rows × T, S", ">built"),
            engines,
        )


def _graphs(artifact: Artifact) -> Iterator[tuple[str, ...]]:
    for dialect in artifact.dialects:
        counts = op_counts(artifact.trusted_graph(dialect))
        ops = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        yield dialect, str(counts.total()), ops


def _reads(artifact: Artifact) -> Iterator[tuple[str, ...]]:
    """Bytes of a decode step at several depths."""
    manifest = artifact.manifest
    capacity = manifest.contract.limits.capacity

    def read(positions: int) -> str:
        step = bytes_where_masked(manifest.spec, manifest.precision, positions, 1, manifest.dense)
        return binary_bytes(step)

    for filled in (1, capacity // 2, capacity):
        yield str(filled), read(filled), read(capacity)
