"""`llx models`."""

from __future__ import annotations


def models() -> None:
    """List the models known by name."""
    from llx.llama.presets import PRESETS
    from llx.reports.console import show, simple_table
    from llx.reports.units import parameters

    rows = [
        (
            preset.name,
            preset.size,
            parameters(preset.spec.parameters),
            f"{preset.spec.context}",
            f"{preset.spec.heads}/{preset.spec.kv_heads}",
            f"{preset.spec.rope.theta:g}"
            + (f" {preset.spec.rope.type}" if preset.spec.rope.type != "default" else ""),
            preset.licence,
        )
        for preset in PRESETS
    ]
    headings = ("model", ">size", ">params", ">context", ">H/Hkv", "RoPE", "licence")
    show(simple_table("", headings, rows))
