"""`llx inspect`."""

from __future__ import annotations

from llx.cli.arguments import ArtifactFolder


def inspect(folder: ArtifactFolder = None) -> None:
    """Show what an artifact holds: ops, bytes, what a decode step reads."""
    from llx.artifact import open_artifact
    from llx.bench.roofline.work import bytes_per_decode_step
    from llx.engine import engines_of
    from llx.graphs.inspect import op_counts, weight_groups
    from llx.reports.artifacts import engine_row, quantization_in_words
    from llx.reports.console import say, show, simple_table
    from llx.reports.units import binary_bytes, parameters

    artifact = open_artifact(folder)
    manifest = artifact.manifest
    spec, limits, source = manifest.spec, manifest.contract.limits, manifest.source
    say(
        f"{artifact.folder}: {source.label} ({source.format}), {parameters(spec.parameters)} "
        f"parameters, {manifest.precision.name}"
    )
    say(
        f"L {spec.layers}, dim {spec.dim}, H {spec.heads}, Hkv {spec.kv_heads}, D {spec.head_dim}, "
        f"F {spec.ffn_dim}, V {spec.vocab}, context {spec.context}, capacity {limits.capacity}"
    )
    if manifest.quantization:
        say(quantization_in_words(manifest.quantization))
    rows = []
    for dialect in artifact.dialects:
        counts = op_counts(artifact.path(f"{dialect}.onnx"))
        ops = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        rows.append((dialect, str(counts.total()), ops))
    show(simple_table("\ngraphs", ("dialect", ">nodes", "ops"), rows))
    groups = weight_groups(artifact.path(f"{artifact.dialects[0]}.onnx"))
    total = sum(groups.values())
    show(
        simple_table(
            "\nweights",
            ("group", ">bytes", ">share"),
            [(name, binary_bytes(n), f"{100 * n / total:.1f} %") for name, n in groups.items()],
        )
    )

    def read(filled: int) -> str:
        step = bytes_per_decode_step(spec, manifest.precision, filled, 1, manifest.dense)
        return binary_bytes(step)

    reads = [
        (str(filled), read(filled), read(limits.capacity))
        for filled in (1, limits.capacity // 2, limits.capacity)
    ]
    headings = (">positions filled", ">must be read", ">is read: all of the cache")
    show(simple_table("\nbytes of a decode step", headings, reads))
    engines = [engine_row(engine) for engine in engines_of(artifact)]
    if engines:
        columns = ("engine", "version", "graph", ">size", ">ratio", ">rows × T, S", ">built")
        show(
            simple_table(
                "\nengines, newest first; ratio: of their size to the weights'", columns, engines
            )
        )
