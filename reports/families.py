"""The models known by name, as tables: of the terminal, and of the documents.

`python -m llx.reports.families docs/checkpoint.md` writes its table anew between the markers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llx.files import write_whole
from llx.llama.presets import PRESETS, Preset, families, preset_of_size
from llx.llama.spec import RopeSpec
from llx.reports.markdown import raw_table
from llx.reports.units import parameters

BEGIN, END = "<!-- families -->", "<!-- /families -->"
MODEL_HEADINGS = ("model", ">size", ">params", ">context", ">H/Hkv", "RoPE", "licence")


def model_rows(presets: Sequence[Preset] = PRESETS) -> list[tuple[str, ...]]:
    """A line for each model, under `MODEL_HEADINGS`; its size where the size alone means it."""
    return [
        (
            preset.name,
            preset.size if _is_meant(preset) else "",
            parameters(preset.spec.parameters),
            str(preset.spec.context),
            f"{preset.spec.heads}/{preset.spec.kv_heads}",
            _rope(preset.spec.rope),
            preset.licence,
        )
        for preset in presets
    ]


def families_table() -> str:
    """A line for each family, in Markdown; bold is what a size alone means."""
    headings = ("family", "`--family`", "sizes", "variants", "context", "RoPE", "V", "licence")
    rows = [
        (
            presets[0].family,
            f"`{key}`",
            _sizes(presets),
            _each(presets, _variant),
            _each(presets, lambda p: str(p.spec.context)),
            _each(presets, lambda p: _rope(p.spec.rope)),
            _each(presets, lambda p: str(p.spec.vocab)),
            presets[0].licence,
        )
        for key, presets in families().items()
    ]
    return raw_table(headings, rows)


def with_families_table(text: str) -> str:
    """A document with the table between its markers replaced by the one of today."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{families_table()}\n{END}{after}"


def _is_meant(preset: Preset) -> bool:
    return preset_of_size(preset.size) is preset


def _sizes(presets: Sequence[Preset]) -> str:
    meant = {preset.size for preset in presets if _is_meant(preset)}
    return _each(presets, lambda p: f"**{p.size}**" if p.size in meant else p.size)


def _each(presets: Sequence[Preset], what: Callable[[Preset], str]) -> str:
    """What the models have, each value once."""
    return ", ".join(dict.fromkeys(map(what, presets)))


def _variant(preset: Preset) -> str:
    """What follows the size in a model's name: `chat`, `python`; nothing for a base model."""
    return preset.name.partition(preset.size)[2].lstrip("-") or "base"


def _rope(rope: RopeSpec) -> str:
    """RoPE in few letters: 500k llama3."""
    theta = f"{rope.theta / 1e6:g}M" if rope.theta >= 1e6 else f"{rope.theta / 1e3:g}k"
    return theta if rope.type == "default" else f"{theta} {rope.type}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        write_whole(path, with_families_table(path.read_text(encoding="utf-8")).encode())
