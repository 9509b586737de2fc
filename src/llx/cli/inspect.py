"""`llx inspect`."""

from __future__ import annotations

from llx.cli.arguments import ArtifactFolder
from llx.cli.export import quantization


def inspect(folder: ArtifactFolder = None) -> None:
    """Show what an artifact holds: ops, bytes, what a decode step reads."""
    from llx.artifact import open_artifact
    from llx.bench.roofline import bytes_per_decode_step
    from llx.graphs.inspect import op_counts, weight_groups
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
        say(quantization(manifest.quantization))
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
    reads = [
        (str(filled), binary_bytes(bytes_per_decode_step(spec, manifest.precision, filled, 1)))
        for filled in (1, limits.capacity // 2, limits.capacity)
    ]
    show(simple_table("\na decode step must read", (">positions filled", ">bytes"), reads))
